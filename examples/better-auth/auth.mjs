// Better Auth on TaskQL's database: sign-up fills the table `users`, and its JWTs are what TaskQL takes.
import { betterAuth } from "better-auth";
import { bearer, jwt } from "better-auth/plugins";
import pg from "pg";

const { DATABASE_OWNER_URL, BETTER_AUTH_URL, BETTER_AUTH_SECRET } = process.env;

export const auth = betterAuth({
  baseURL: BETTER_AUTH_URL,
  secret: BETTER_AUTH_SECRET,
  database: new pg.Pool({ connectionString: DATABASE_OWNER_URL, max: 5 }),
  // TaskQL's ids are UUIDs, made by the database.
  advanced: { database: { generateId: "uuid" } },
  user: {
    modelName: "users",
    fields: { emailVerified: "email_verified", createdAt: "created_at", updatedAt: "updated_at" },
    deleteUser: { enabled: true },
  },
  emailAndPassword: { enabled: true },
  plugins: [
    // iss and aud are the base URL, sub is the user's id; a token holds for 15 minutes, a key signs for 30 days.
    jwt({ jwks: { rotationInterval: 30 * 24 * 60 * 60 }, jwt: { definePayload: () => ({}) } }),
    // Sessions without cookies, for clients that are no browsers.
    bearer(),
  ],
  telemetry: { enabled: false },
});
