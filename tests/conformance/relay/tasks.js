// What relay-compiler reads; `npm run relay` writes what relay.mjs runs.
import { graphql } from 'relay-runtime';

graphql`
  query tasksQuery($count: Int!, $cursor: String) {
    viewer { id ...tasks_viewer }
    tasks(first: $count, after: $cursor, orderBy: [{ field: TITLE }]) @connection(key: "tasksQuery_tasks") {
      edges { node { id title } }
    }
  }
`;

graphql`
  fragment tasks_viewer on User @refetchable(queryName: "tasksViewerRefetchQuery") {
    email
    taskStats { open }
  }
`;

graphql`
  mutation tasksCreateMutation($input: CreateTaskInput!, $connections: [ID!]!) {
    createTask(input: $input) {
      task @appendNode(connections: $connections, edgeTypeName: "TaskEdge") { id title version }
      userErrors { code field }
    }
  }
`;
