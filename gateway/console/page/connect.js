// The Connect section: how to reach this service from one's own code.

import { card, code, facts } from './cards.js';

/** drawConnect fills root with commands and code for one service. */
export function drawConnect(root, { service, account }) {
  const base = new URL('.', document.baseURI).href.replace(/\/$/, '');
  const socket = `${base.replace(/^http/, 'ws')}/v1/connect`;
  root.replaceChildren(
    card('Where', 'The service chosen above, as clients and servers name it.', facts([
      ['Service SID', service], ['Account SID', account], ['REST API', `${base}/v1`], ['WebSocket', socket], ['Subprotocol', 'rollcall.v1.json'],
    ])),
    card('Watch from a terminal', 'Prints every change of the users it names, as it comes. It needs the credentials in its settings, as the gateway does.',
      code(`rollcall watch --service ${service} --url ${base} ada grace`)),
    card('Make an access token', 'Clients connect with a short-lived token. The helper libraries for Conversations make the same ones, with the API key of the gateway.',
      code(`rollcall token --service ${service} --identity ada`)),
    card('Connect a client', 'One socket is one session. Say hello first; say bye to leave at once.',
      code(`const socket = new WebSocket('${socket}', 'rollcall.v1.json');
socket.onopen = () => socket.send(JSON.stringify({ type: 'hello', token }));
socket.onmessage = ({ data }) => {
  const message = JSON.parse(data);
  if (message.type === 'welcome')
    socket.send(JSON.stringify({ type: 'subscribe', id: 1, identities: ['grace'] }));
  if (message.type === 'user.updated')
    console.log(message.user.identity, message.user.is_online);
};`)),
    card('Ask over REST', 'A single user tells its reachability; in a list it is always null.',
      code(`curl -u "$ACCOUNT_SID:$AUTH_TOKEN" \\\n  ${base}/v1/Services/${service}/Users/ada`)),
  );
}
