import { Client, fetchExchange, subscriptionExchange } from '@urql/core';
import { createClient } from 'graphql-sse';
import { alice, assert, authorization, BAD_ID, bob, CREATE, TICKS, TITLES, titles, url } from './server.mjs';

// What the answers to plain requests come as, whose Accept header names every media type there is.
const mediaTypes = new Set();
async function recorded(...request) {
  const response = await fetch(...request);
  mediaTypes.add(response.headers.get('content-type').split(';')[0]);
  return response;
}

function client(token, exchanges = [fetchExchange], more = {}) {
  const fetchOptions = { headers: authorization(token) };
  return new Client({ url, fetch: recorded, fetchOptions, exchanges, preferGetMethod: false, ...more });
}

function events(client) {
  return new Promise((resolve) => {
    const seen = [];
    client.subscription(TICKS, { count: 3 }).subscribe(({ data, error }) => {
      seen.push(error ?? data.ticks);
      if (seen.length === 3) resolve(seen);
    });
  });
}

const [hers, his] = [client(alice), client(bob)];
const created = await hers.mutation(CREATE, { input: { title: 'Urql' } });
assert.equal(created.data.createTask.task.title, 'Urql');
assert.deepEqual(titles((await hers.query(TITLES, {})).data), ['Urql']);
assert.deepEqual(titles((await his.query(TITLES, {})).data), []);
const { error } = await hers.query(BAD_ID, {});
assert.equal(error.graphQLErrors[0].extensions.code, 'BAD_USER_INPUT');
assert.deepEqual([...mediaTypes], ['application/graphql-response+json']);

// Its two ways to subscribe: by itself, and through graphql-sse.
assert.deepEqual(await events(client(alice, [fetchExchange], { fetchSubscriptions: true })), [1, 2, 3]);
const sse = createClient({ url, headers: authorization(alice) });
const forwardSubscription = (operation) => ({
  subscribe: (sink) => ({ unsubscribe: sse.subscribe(operation, sink) }),
});
assert.deepEqual(await events(client(alice, [subscriptionExchange({ forwardSubscription })])), [1, 2, 3]);
