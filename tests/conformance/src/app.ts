// A front end of generated types. Where an error is expected, the compiler objects if there is none, as with `any`.
import type { ResultOf, VariablesOf } from '@graphql-typed-document-node/core';
import { ChangesDocument, CreateTaskDocument, MoveTaskDocument, TasksDocument, UpdateTasksDocument } from './graphql';

type Tasks = ResultOf<typeof TasksDocument>;
type Task = NonNullable<Tasks['tasks']>['edges'][number]['node'];

export function created(task: Task, token: ResultOf<typeof CreateTaskDocument>['createTask']['token']): string {
  const due: string | null = task.dueDate;
  const tags: string[] = task.tags;
  const text: string | null = token;
  // @ts-expect-error a DateTime is a string
  const made: Date = task.createdAt;
  // @ts-expect-error a Date is a string, or null
  const day: string = task.dueDate;
  // @ts-expect-error a SyncToken is a string, or null
  const number: number = token;
  // @ts-expect-error there is no such priority
  if (task.priority === 'SOON') return '';
  return [task.createdAt, due, ...tags, text, made, day, number].join();
}

export function first(data: Tasks): string | undefined {
  // @ts-expect-error a field that failed is null
  data.tasks.edges;
  return data.tasks?.edges[0]?.node.title;
}

// A copy of the lists and tasks, kept by pages of changes.
type Page = NonNullable<ResultOf<typeof ChangesDocument>['changes']>;
type List = Extract<Page['changes'][number], { __typename: 'ListUpserted' }>['list'];
type Copy = { lists: Map<string, List>; tasks: Map<string, Task>; listed: Map<string, string | undefined> };

export function applied(copy: Copy, page: Page): string {
  if (page.fullSync) for (const rows of [copy.lists, copy.tasks, copy.listed]) rows.clear();
  for (const change of page.changes) {
    switch (change.__typename) {
      case 'ListUpserted':
        copy.lists.set(change.list.id, change.list);
        // @ts-expect-error a change of a list has no task
        change.task;
        break;
      case 'ListRemoved':
        copy.lists.delete(change.listId);
        // @ts-expect-error an id is a string
        copy.lists.delete(change.listId * 1);
        break;
      case 'TaskUpserted':
        copy.tasks.set(change.task.id, change.task);
        copy.listed.set(change.task.id, change.task.list?.id);
        // @ts-expect-error a task may be in no list
        change.task.list.id;
        break;
      default:
        copy.tasks.delete(change.taskId);
    }
    // @ts-expect-error not each change has a task
    change.task;
  }
  return page.token;
}

// What has a default may be left out, and may be null.
export const lists: VariablesOf<typeof TasksDocument>[] = [
  {},
  { orderBy: [{ field: 'DUE_DATE' }, { field: 'TITLE', direction: null }], filter: { completed: false } },
  // @ts-expect-error what to sort by is needed
  { orderBy: [{ direction: 'ASC' }] },
];
export const creations: VariablesOf<typeof CreateTaskDocument>[] = [
  { input: { title: 'Only a title' } },
  { input: { title: 'All', description: null, priority: null, dueDate: '2026-01-31', tags: [] } },
  // @ts-expect-error a task has a title
  { input: { priority: 'HIGH' } },
];
export const updates: VariablesOf<typeof UpdateTasksDocument>[] = [
  { where: { filter: { completed: true } }, input: { tags: null } },
  { where: { ids: [] }, input: {}, atMost: null, dryRun: null },
];
export const moves: VariablesOf<typeof MoveTaskDocument>[] = [
  { id: '1', to: { toStart: true } },
  // @ts-expect-error exactly one place
  { id: '1', to: { toStart: true, after: '2' } },
];
