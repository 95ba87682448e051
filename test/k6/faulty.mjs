// A gateway that is not as it should be: what stands before a real one and spoils what it sends.

import { once } from 'node:events';
import { createServer } from 'node:http';
import { WebSocket, WebSocketServer } from 'ws';

/** faulty gives {url, stop}. spoil is called with each message for a client, and gives what is sent instead: a list of messages. */
export async function faulty(target, spoil) {
  const server = createServer(async (req, res) => {
    const chunks = [];
    for await (const chunk of req) chunks.push(chunk);
    const { authorization, 'content-type': type } = req.headers;
    const answer = await fetch(target + req.url, {
      method: req.method,
      headers: { authorization, ...(type && { 'content-type': type }) },
      body: chunks.length ? Buffer.concat(chunks) : undefined,
    });
    res.writeHead(answer.status, { 'Content-Type': 'application/json' }).end(await answer.text());
  });
  const sockets = new WebSocketServer({ server });
  sockets.on('connection', (client, req) => {
    const node = new WebSocket(target.replace('http', 'ws') + req.url);
    const opened = once(node, 'open');
    client.on('message', async (data) => {
      await opened;
      node.send(data.toString());
    });
    client.on('close', () => node.close());
    node.on('message', (data) => spoil(JSON.parse(data)).forEach((message) => client.send(JSON.stringify(message))));
    node.on('close', (code, reason) => client.close(code === 1005 || code === 1006 ? 1000 : code, reason));
    node.on('error', () => client.terminate());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    stop: async () => {
      for (const client of sockets.clients) client.terminate();
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
