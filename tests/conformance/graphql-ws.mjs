import { createClient } from 'graphql-ws';
import { createHash } from 'node:crypto';
import WebSocket from 'ws';
import {
  alice, assert, authorization, bob, CREATE, rejected, socketUrl, TICKS, TITLES, titles, UNKNOWN_FIELD,
} from './server.mjs';

const client = (token, more) =>
  createClient({ url: socketUrl, webSocketImpl: WebSocket, connectionParams: authorization(token), ...more });

async function all(client, query, variables, extensions) {
  const results = [];
  for await (const result of client.iterate({ query, variables, extensions })) results.push(result);
  return results;
}

const [hers, his] = [client(alice), client(bob)];
const [created] = await all(hers, CREATE, { input: { title: 'Socket' } });
assert.equal(created.data.createTask.task.title, 'Socket');
assert.deepEqual(titles((await all(hers, TITLES))[0].data), ['Socket']);
assert.deepEqual(titles((await all(his, TITLES))[0].data), []);
assert.deepEqual(await all(hers, TICKS, { count: 3 }), [1, 2, 3].map((ticks) => ({ data: { ticks } })));

const errors = await rejected(all(hers, UNKNOWN_FIELD));
assert.equal(errors[0].extensions.code, 'GRAPHQL_VALIDATION_FAILED');
const closed = await rejected(all(client('a.b.c', { retryAttempts: 0 }), TITLES));
assert.equal(closed.code, 4403);
assert.match(closed.reason, /^Forbidden: /);

// A token that expires: the client comes back by itself, with the next one.
const tokens = [process.env.EXPIRING, alice];
const connections = [];
const returning = client(null, {
  connectionParams: () => authorization(tokens.shift()),
  on: { closed: ({ code, reason }) => connections.push([code, reason.split(':')[0]]) },
});
for await (const { data } of returning.iterate({ query: 'subscription { tickThenSilence }' })) {
  assert.deepEqual(data, { tickThenSilence: 1 });
  if (tokens.length === 0) break;
}
assert.deepEqual(connections, [[4403, 'Expired']]);

// A document by its hash. The client always sends a query, an empty one where it has none.
const extensions = { persistedQuery: { version: 1, sha256Hash: createHash('sha256').update(TITLES).digest('hex') } };
await all(hers, TITLES, undefined, extensions);
assert.deepEqual(titles((await all(hers, '', undefined, extensions))[0].data), ['Socket']);
await Promise.all([hers, his, returning].map((one) => one.dispose()));
