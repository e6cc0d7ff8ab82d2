// Automatic persisted queries: the text goes over the wire once, and from then on its hash alone.
import { ApolloClient, ApolloLink, gql, HttpLink, InMemoryCache } from '@apollo/client';
import { PersistedQueryLink } from '@apollo/client/link/persisted-queries';
import { createHash } from 'node:crypto';
import { alice, assert, authorization, bob, TITLES, titles, url } from './server.mjs';

const sha256 = (text) => createHash('sha256').update(text).digest('hex');
const sent = [];
const recorded = (address, request) => {
  sent.push(JSON.parse(request.body).query !== undefined);
  return fetch(address, request);
};

async function ask(token) {
  const http = new HttpLink({ uri: url, headers: authorization(token), fetch: recorded });
  const link = ApolloLink.from([new PersistedQueryLink({ sha256 }), http]);
  const { data } = await new ApolloClient({ link, cache: new InMemoryCache() }).query({ query: gql(TITLES) });
  return titles(data);
}

assert.deepEqual([await ask(alice), await ask(alice), await ask(bob)], [[], [], []]);
assert.deepEqual(sent, [false, true, false, false]);
