import { GraphQLClient } from 'graphql-request';
import { alice, assert, authorization, BAD_ID, bob, CREATE, rejected, TITLES, titles, url } from './server.mjs';

const hers = new GraphQLClient(url, { headers: authorization(alice) });
const his = new GraphQLClient(url, { headers: authorization(bob) });

const { createTask } = await hers.request(CREATE, { input: { title: 'Request' } });
assert.equal(createTask.task.title, 'Request');
assert.deepEqual(titles(await hers.request(TITLES)), ['Request']);
assert.deepEqual(titles(await his.request(TITLES)), []);

const error = await rejected(hers.request(BAD_ID));
assert.equal(error.response.errors[0].extensions.code, 'BAD_USER_INPUT');
const anonymous = await rejected(new GraphQLClient(url).request(TITLES));
assert.equal(anonymous.response.status, 401);
