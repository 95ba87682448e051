// Turns reachability on for a service, over REST, with the helper library.
import twilio from 'twilio';

const client = twilio(process.env.ACCOUNT_SID, process.env.AUTH_TOKEN);
client.conversations.baseUrl = process.env.GATEWAY_URL; // the only line that is new

const configuration = await client.conversations.v1
  .services(process.env.SERVICE_SID)
  .configuration()
  .update({ reachabilityEnabled: true });

console.log('reachability', configuration.reachabilityEnabled);
