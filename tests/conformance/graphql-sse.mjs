import { createClient } from 'graphql-sse';
import { alice, assert, authorization, bob, CREATE, TICKS, TITLES, titles, UNKNOWN_FIELD, url } from './server.mjs';

const client = (token, more) => createClient({ url, headers: authorization(token), ...more });

async function all(client, query, variables) {
  const results = [];
  for await (const result of client.iterate({ query, variables })) results.push(result);
  return results;
}

const [hers, his] = [client(alice), client(bob)];
const [created] = await all(hers, CREATE, { input: { title: 'Events' } });
assert.equal(created.data.createTask.task.title, 'Events');
assert.deepEqual(titles((await all(hers, TITLES))[0].data), ['Events']);
assert.deepEqual(titles((await all(his, TITLES))[0].data), []);
assert.deepEqual(await all(hers, TICKS, { count: 3 }), [1, 2, 3].map((ticks) => ({ data: { ticks } })));

const [refused] = await all(hers, UNKNOWN_FIELD);
assert.equal(refused.errors[0].extensions.code, 'GRAPHQL_VALIDATION_FAILED');
const [anonymous] = await all(client('a.b.c'), TITLES);
assert.equal(anonymous.errors[0].extensions.code, 'UNAUTHENTICATED');

// A token that expires: the client comes back by itself, with the next one.
const tokens = [process.env.EXPIRING, alice];
let connections = 0;
const returning = client(null, {
  headers: () => authorization(tokens.shift()),
  on: { connected: () => (connections += 1) },
});
for await (const { data } of returning.iterate({ query: 'subscription { tickThenSilence }' })) {
  assert.deepEqual(data, { tickThenSilence: 1 });
  if (tokens.length === 0) break;
}
assert.equal(connections, 2);
