// The strong peer: the operations of the benchmark on Fastify, Mercurius with its JIT compiler, and postgres.js.
//
// Tokens are verified and every statement is filtered by user. There is no row-level security, and there are no limits,
// rates, retries, versions or change feed. The tables are its own, with the two indexes that these operations need.
// Reads AUTH_SECRET and the environment of libpq (PGHOST, PGPORT, PGUSER, PGDATABASE); argument: the port.
import Fastify from "fastify";
import { createVerifier } from "fast-jwt";
import { GraphQLScalarType } from "graphql";
import mercurius from "mercurius";
import postgres from "postgres";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const LARGEST_PAGE = 100;
const TEXT = 25;

const schema = `
  scalar DateTime
  scalar Date
  enum TaskPriority { NONE LOW MEDIUM HIGH URGENT }
  type Task {
    id: ID! title: String! description: String completed: Boolean! priority: TaskPriority! dueDate: Date tags: [String!]!
    createdAt: DateTime! updatedAt: DateTime!
  }
  type TaskEdge { cursor: String! node: Task! }
  type PageInfo { hasNextPage: Boolean! hasPreviousPage: Boolean! startCursor: String endCursor: String }
  type TaskConnection { edges: [TaskEdge!]! nodes: [Task!]! pageInfo: PageInfo! }
  type TaskStats { total: Int! open: Int! completed: Int! overdue: Int! }
  type User { id: ID! taskStats: TaskStats! }
  type UserError { code: String! message: String! field: [String!] }
  type TaskPayload { task: Task userErrors: [UserError!]! }
  input CreateTaskInput {
    title: String! description: String priority: TaskPriority = NONE dueDate: Date tags: [String!]
  }
  type Query { viewer: User! task(id: ID!): Task tasks(first: Int = 20, after: String): TaskConnection! }
  type Mutation {
    createTask(input: CreateTaskInput!): TaskPayload!
    setTaskCompleted(id: ID!, completed: Boolean!): TaskPayload!
  }`;

const sql = postgres({ max: 15 });
const columns = sql`id, title, description, completed, priority, due_date::text as "dueDate", tags,
  created_at as "createdAt", updated_at as "updatedAt"`;

const rejected = (code, message, ...field) => ({ task: null, userErrors: [{ code, message, field }] });
const found = (task) => (task ? { task, userErrors: [] } : rejected("NOT_FOUND", "There is no such task.", "id"));

async function one(id, user) {
  const [task] = await sql`select ${columns} from peer.tasks where id = ${id} and user_id = ${user}`;
  return task ?? null;
}

async function page(_, { first, after }, { user }) {
  const size = Math.min(Math.max(first, 1), LARGEST_PAGE);
  const rest = after
    ? sql`and (created_at, id) < (select created_at, id from peer.tasks where id = ${after} and user_id = ${user})`
    : sql``;
  const nodes = await sql`select ${columns} from peer.tasks where user_id = ${user} ${rest}
    order by created_at desc, id desc limit ${size + 1}`;
  const hasNextPage = nodes.length > size;
  if (hasNextPage) nodes.pop();
  const pageInfo = {
    hasNextPage,
    hasPreviousPage: after != null,
    startCursor: nodes[0]?.id ?? null,
    endCursor: nodes.at(-1)?.id ?? null,
  };
  return { nodes, pageInfo };
}

async function stats(_, __, { user }) {
  const [counts] = await sql`select count(*)::int total, count(*) filter (where not completed)::int open,
    count(*) filter (where completed)::int completed,
    count(*) filter (where not completed and due_date < current_date)::int overdue
    from peer.tasks where user_id = ${user}`;
  return counts;
}

async function create(_, { input }, { user }) {
  const { title, description = null, priority, dueDate = null, tags } = input;
  if (!title.trim() || title.length > 200) return rejected("INVALID", "1 to 200 characters.", "input", "title");
  if (description?.length > 1000) return rejected("TOO_LONG", "At most 1000 characters.", "input", "description");
  const [task] = await sql`insert into peer.tasks (user_id, title, description, priority, due_date, tags)
    values (${user}, ${title}, ${description}, ${priority}, ${dueDate}, ${sql.array(tags ?? [], TEXT)}) returning ${columns}`;
  return found(task);
}

async function complete(_, { id, completed }, { user }) {
  if (!UUID.test(id)) return found(null);
  const [task] = await sql`update peer.tasks set completed = ${completed}, updated_at = now()
    where id = ${id} and user_id = ${user} returning ${columns}`;
  return found(task);
}

const resolvers = {
  DateTime: new GraphQLScalarType({ name: "DateTime", serialize: (moment) => moment.toISOString() }),
  TaskConnection: { edges: ({ nodes }) => nodes.map((node) => ({ cursor: node.id, node })) },
  User: { taskStats: stats },
  Query: {
    viewer: (_, __, { user }) => ({ id: user }),
    task: (_, { id }, { user }) => (UUID.test(id) ? one(id, user) : null),
    tasks: page,
  },
  Mutation: { createTask: create, setTaskCompleted: complete },
};

const verify = createVerifier({ key: process.env.AUTH_SECRET, algorithms: ["HS256"] });
const app = Fastify({ logger: false });
app.decorateRequest("user", null);
app.addHook("onRequest", async (request, reply) => {
  try {
    request.user = verify((request.headers.authorization ?? "").slice("Bearer ".length)).sub;
  } catch {
    return reply.code(401).send({ errors: [{ message: "unauthenticated" }] });
  }
});
app.register(mercurius, { schema, resolvers, jit: 1, graphiql: false, context: ({ user }) => ({ user }) });
await app.listen({ port: Number(process.argv[2]), host: "127.0.0.1" });
