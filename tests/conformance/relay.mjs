import relay from 'relay-runtime';
import create from './relay/__generated__/tasksCreateMutation.graphql.js';
import query from './relay/__generated__/tasksQuery.graphql.js';
import { alice, assert, authorization, bob, url } from './server.mjs';

const { commitMutation, ConnectionHandler, createOperationDescriptor, Environment, fetchQuery, Network, RecordSource, Store } = relay;

function environment(token) {
  const headers = { 'Content-Type': 'application/json', ...authorization(token) };
  const send = async ({ text }, variables) =>
    (await fetch(url, { method: 'POST', headers, body: JSON.stringify({ query: text, variables }) })).json();
  return new Environment({ network: Network.create(send), store: new Store(new RecordSource()) });
}

const add = (environment, title, connections = []) =>
  new Promise((onCompleted, onError) => {
    commitMutation(environment, { mutation: create, variables: { input: { title }, connections }, onCompleted, onError });
  });

const load = (environment, variables) => fetchQuery(environment, query, variables).toPromise();

// What a component would show of the store.
function shown(environment, variables) {
  const { data } = environment.lookup(createOperationDescriptor(query, variables).fragment);
  return data.tasks.edges.map(({ node }) => node.title);
}

const [hers, his] = [environment(alice), environment(bob)];
for (const title of ['a', 'b', 'c']) assert.equal((await add(hers, title)).createTask.task.title, title);
const refused = await add(hers, ' ');
assert.deepEqual(refused.createTask.userErrors, [{ code: 'BLANK', field: ['input', 'title'] }]);

// Two pages become one connection of the store, and a mutation adds to it.
const first = { count: 2, cursor: null };
const { tasks } = await load(hers, first);
assert.deepEqual(shown(hers, first), ['a', 'b']);
await load(hers, { count: 2, cursor: tasks.pageInfo.endCursor });
assert.deepEqual(shown(hers, first), ['a', 'b', 'c']);
await add(hers, 'd', [ConnectionHandler.getConnectionID('client:root', 'tasksQuery_tasks', { orderBy: [{ field: 'TITLE' }] })]);
assert.deepEqual(shown(hers, first), ['a', 'b', 'c', 'd']);

await load(his, first);
assert.deepEqual(shown(his, first), []);
// Relay takes a field that failed as null, and keeps the others; @throwOnFieldError would make it an error.
const { tasks: failed, viewer } = await load(hers, { count: 0, cursor: null });
assert.equal(failed, null);
assert.ok(viewer);
