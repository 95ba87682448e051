// Follows whether a user is reachable, with the Conversations SDK.
import { Client } from '@twilio/conversations';

const client = new Client(process.env.ACCESS_TOKEN, {
  Twilsock: { uri: process.env.GATEWAY_SOCKET }, // the only line that is new
});

client.on('initialized', () => {
  console.log('reachability', client.reachabilityEnabled);
  follow(process.env.FOLLOWED).catch(({ message }) => console.error('following', message));
});

async function follow(identity) {
  const followed = await client.getUser(identity);
  console.log(followed.identity, 'online', followed.isOnline);
  console.log(followed.identity, 'notifiable', followed.isNotifiable);

  followed.on('updated', ({ user, updateReasons }) => {
    if (updateReasons.includes('reachabilityOnline')) {
      console.log(user.identity, 'online', user.isOnline);
    }
    if (updateReasons.includes('reachabilityNotifiable')) {
      console.log(user.identity, 'notifiable', user.isNotifiable);
    }
  });
}

client.on('connectionError', ({ message }) => console.error('connection', message));
