// The server under test, and the tokens of two of its users.
import { strict as assert } from 'node:assert';

export const { URL: url, ALICE: alice, BOB: bob } = process.env;
export const socketUrl = url.replace(/^http/, 'ws');

export const authorization = (token) => ({ Authorization: `Bearer ${token}` });

export const TITLES = '{ tasks { nodes { title } } }';
export const CREATE = `
  mutation Create($input: CreateTaskInput!) {
    createTask(input: $input) {
      task { id title }
      userErrors { code field }
    }
  }
`;
export const TICKS = 'subscription Ticks($count: Int!) { ticks(count: $count) }';
export const BAD_ID = '{ task(id: "x") { id } }';
export const UNKNOWN_FIELD = '{ nothing }';

export const titles = (data) => data.tasks.nodes.map((task) => task.title);
export const rejected = (promise) => promise.then(() => assert.fail('should have been rejected'), (error) => error);
export { assert };
