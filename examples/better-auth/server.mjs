// Makes Better Auth's own tables where they are missing, then serves it under /api/auth.
import { createServer } from "node:http";
import { getMigrations } from "better-auth/db/migration";
import { toNodeHandler } from "better-auth/node";
import { auth } from "./auth.mjs";

const { runMigrations } = await getMigrations(auth.options);
await runMigrations();

const server = createServer(toNodeHandler(auth));
const { hostname, port } = new URL(process.env.BETTER_AUTH_URL);
server.listen(Number(port || 80), hostname, () => console.log(`Better Auth serves ${process.env.BETTER_AUTH_URL}`));
process.on("SIGTERM", () => process.exit(0));
