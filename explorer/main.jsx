import '@graphiql/react/font/roboto.css';
import '@graphiql/react/font/fira-code.css';
import '@graphiql/react/style.css';
import '@graphiql/plugin-doc-explorer/style.css';
import '@graphiql/plugin-explorer/style.css';
import 'graphiql/graphiql.css';
// GraphiQL imports the editor lazily; named here too, its style sheets end up in explorer.css.
import 'monaco-graphql/esm/monaco-editor.js';
import { explorerPlugin } from '@graphiql/plugin-explorer';
import { createGraphiQLFetcher, createLocalStorage } from '@graphiql/toolkit';
import { GraphiQL } from 'graphiql';
import { createRoot } from 'react-dom/client';

// A token may come as #token=…, which browsers send to no server. It does not stay in the address or the history.
const token = new URLSearchParams(location.hash.slice(1)).get('token');
if (token) history.replaceState(null, '', location.pathname + location.search);
addEventListener('hashchange', () => location.reload()); // an address with a token was opened in this tab
const endpoint = location.pathname;
const assets = new URL(import.meta.url);

globalThis.MonacoEnvironment = {
  getWorker: (_id, label) => {
    const name = label === 'json' || label === 'graphql' ? label : 'editor';
    return new Worker(new URL(`${name}.worker.js${assets.search}`, assets), { type: 'module' });
  },
};

const headers = token ? { Authorization: `Bearer ${token}` } : undefined;
const shownHeaders = headers
  ? JSON.stringify(headers, null, 2)
  : '{\n  // "Authorization": "Bearer <token>"\n}';
const firstQuery = `# Your first ten tasks: Ctrl-Enter runs the query.
# Your token goes in the Headers pane below.
query MyTasks {
  viewer {
    name
    email
    taskStats { total open completed overdue }
  }
  tasks(first: 10) {
    totalCount
    nodes { id title completed priority dueDate tags }
    pageInfo { hasNextPage endCursor }
  }
}
`;

const send = createGraphiQLFetcher({
  url: endpoint,
  subscriptionUrl: new URL(endpoint, location).href.replace(/^http/, 'ws'), // the headers go with connection_init
  enableIncrementalDelivery: false,
});
const plugins = [explorerPlugin()]; // without GraphiQL's history, which would store tokens in the browser
const storage = createLocalStorage({ namespace: 'taskql' }); // another GraphiQL may have used this host and port

createRoot(document.getElementById('explorer')).render(
  <GraphiQL
    // The schema is asked for before the headers pane exists; from then on the pane decides.
    fetcher={(params, options) => send(params, { headers, ...options })}
    defaultQuery={firstQuery}
    defaultHeaders={shownHeaders}
    defaultEditorToolsVisibility="headers"
    shouldPersistHeaders={false} // the browser stores no token
    plugins={plugins}
    storage={storage}
  >
    <GraphiQL.Logo>TaskQL</GraphiQL.Logo>
  </GraphiQL>,
);
