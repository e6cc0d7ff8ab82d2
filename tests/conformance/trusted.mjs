// A server of the manifest that graphql-codegen's client preset writes: it answers what stands there, by its id.
import { createClient as createEvents } from 'graphql-sse';
import { createClient as createSocket } from 'graphql-ws';
import { readFile } from 'node:fs/promises';
import WebSocket from 'ws';
import { alice, assert, authorization, bob, socketUrl, url } from './server.mjs';

const documents = JSON.parse(await readFile('trusted/persisted-documents.json', 'utf8'));
const idOf = (name) => Object.keys(documents).find((id) => documents[id].includes(`${name}(`));

async function send(token, request) {
  const headers = { 'Content-Type': 'application/json', ...authorization(token) };
  return (await fetch(url, { method: 'POST', headers, body: JSON.stringify(request) })).json();
}

const input = { title: 'Trusted' };
const created = await send(alice, { documentId: idOf('mutation CreateTask'), variables: { input } });
assert.equal(created.data.createTask.task.title, 'Trusted');

const extensions = { persistedQuery: { version: 1, sha256Hash: idOf('query Tasks') } };
for (const [token, expected] of [[alice, ['Trusted']], [bob, []]]) {
  const { data } = await send(token, { extensions });
  assert.deepEqual(data.tasks.edges.map(({ node }) => node.title), expected);
}

// Both protocols demand a query, so their clients send an empty one beside the id.
const socket = createSocket({ url: socketUrl, webSocketImpl: WebSocket, connectionParams: authorization(alice) });
const events = createEvents({ url, headers: authorization(alice) });
for (const client of [socket, events]) {
  for (const id of [{ extensions }, { documentId: idOf('query Tasks') }]) {
    const { value } = await client.iterate({ query: '', ...id }).next();
    assert.deepEqual(value.data.tasks.edges.map(({ node }) => node.title), ['Trusted']);
  }
  await client.dispose();
}

for (const query of ['{ viewer { id } }', '{ __schema { queryType { name } } }']) {
  const { data, errors } = await send(alice, { query });
  assert.equal(data, undefined);
  assert.equal(errors.length, 1);
}
