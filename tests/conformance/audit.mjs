// The official audits of GraphQL over HTTP; prints those that do not pass.
import { auditServer } from 'graphql-http';
import { url } from './server.mjs';

const results = await auditServer({ url, fetchFn: fetch });
const passed = results.filter(({ status }) => status === 'ok');
const others = results.filter(({ status }) => status !== 'ok').map(({ id, name, reason }) => `${id} ${name}: ${reason}`);
console.log(JSON.stringify({ passed: passed.length, others }, null, 2));
