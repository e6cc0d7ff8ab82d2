import { ApolloClient, ApolloLink, gql, HttpLink, InMemoryCache } from '@apollo/client';
import { CombinedGraphQLErrors } from '@apollo/client/errors';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { createClient } from 'graphql-ws';
import { OperationTypeNode } from 'graphql';
import WebSocket from 'ws';
import { alice, assert, authorization, BAD_ID, bob, CREATE, rejected, socketUrl, TICKS, TITLES, titles, url } from './server.mjs';

const socket = createClient({ url: socketUrl, webSocketImpl: WebSocket, connectionParams: authorization(alice) });

function client(token) {
  const link = ApolloLink.split(
    ({ operationType }) => operationType === OperationTypeNode.SUBSCRIPTION,
    new GraphQLWsLink(socket),
    new HttpLink({ uri: url, headers: authorization(token) }),
  );
  return new ApolloClient({ link, cache: new InMemoryCache() });
}

const [hers, his] = [client(alice), client(bob)];
const created = await hers.mutate({ mutation: gql(CREATE), variables: { input: { title: 'Apollo' } } });
assert.equal(created.data.createTask.task.title, 'Apollo');
const refused = await hers.mutate({ mutation: gql(CREATE), variables: { input: { title: ' ' } } });
assert.deepEqual(refused.data.createTask.userErrors.map(({ code, field }) => [code, field]), [['BLANK', ['input', 'title']]]);
assert.deepEqual(titles((await hers.query({ query: gql(TITLES) })).data), ['Apollo']);
assert.deepEqual(titles((await his.query({ query: gql(TITLES) })).data), []);

const error = await rejected(hers.query({ query: gql(BAD_ID) }));
assert.ok(CombinedGraphQLErrors.is(error));
assert.equal(error.errors[0].extensions.code, 'BAD_USER_INPUT');

const ticks = await new Promise((resolve, reject) => {
  const seen = [];
  hers.subscribe({ query: gql(TICKS), variables: { count: 3 } }).subscribe({
    next: ({ data }) => seen.push(data.ticks),
    error: reject,
    complete: () => resolve(seen),
  });
});
assert.deepEqual(ticks, [1, 2, 3]);
await socket.dispose();
