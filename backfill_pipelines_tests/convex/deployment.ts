/**
 * The functions in a test deployment, and a way to call them as the pipelines do.
 *
 * Belongs here: schemas, filling a table, calling, reading what a call came to. Does not belong here: single tests.
 */
import { convexTest } from "convex-test";
import { anyApi, defineSchema, defineTable } from "convex/server";
import { ConvexError, v } from "convex/values";
import type { Value, Validator } from "convex/values";

export type Kind = "string" | "number" | "null" | "absent";
export type Fields = Record<string, Value>;
/** What a table allows in a field; a field that is not named may not be there at all. */
export type Kinds = Record<string, Kind[]>;
export type Limits = Partial<Record<"documentsRead" | "documentsWritten" | "databaseQueries" | "bytesRead", number>>;

export const VERSION = 1;
export const NAMES = { table: "users", index: "by_clerkId", idField: "clerkId" };
const modules = {
  "/convex/backfill.ts": () => import("../../backfill_pipelines/convex/backfill"),
  "/convex/_generated/api.js": async () => ({}),
};

export function deployment(options: { kinds?: Kinds | undefined; limits?: Limits } = {}) {
  const schema = defineSchema({
    users: defineTable(options.kinds ? validated(options.kinds) : v.any()).index("by_clerkId", ["clerkId"]),
    members: defineTable(v.any()).index("by_identity", ["identity"]),
    unindexed: defineTable(v.any()),
  });
  return convexTest({ schema, modules, transactionLimits: options.limits ?? true });
}

export type Deployment = ReturnType<typeof deployment>;

function validated(kinds: Kinds): Validator<any, "required", any> {
  const one = (kind: Kind) => (kind === "string" ? v.string() : kind === "number" ? v.number() : v.null());
  return v.object(
    Object.fromEntries(
      Object.entries(kinds).map(([field, allowed]) => {
        const value = v.union(...allowed.filter((kind) => kind !== "absent").map(one));
        return [field, allowed.includes("absent") ? v.optional(value) : value];
      }),
    ),
  );
}

/** Insert documents, in order; their ids. */
export async function fill(t: Deployment, documents: Fields[], table = "users"): Promise<string[]> {
  return await t.run(async (ctx) => {
    const ids: string[] = [];
    for (const document of documents) {
      ids.push(await ctx.db.insert(table as "users", document));
    }
    return ids;
  });
}

/** A document as it is, without what Convex adds; null where it is gone. */
export async function held(t: Deployment, id: string): Promise<Fields | null> {
  const document = await t.run(async (ctx) => await ctx.db.get(id as never));
  if (document === null) {
    return null;
  }
  const { _id, _creationTime, ...fields } = document as Fields;
  return fields;
}

export async function page(t: Deployment, request: Fields, version = VERSION) {
  return await t.query(anyApi.backfill!.page!, {
    version,
    request: { ...NAMES, cursor: null, rows: 100, ...request },
  });
}

export async function patch(t: Deployment, patches: Value, names: Fields = NAMES, version = VERSION) {
  return await t.mutation(anyApi.backfill!.patch!, { version, request: { ...names, patches } });
}

/** The code with which a call is refused. */
export async function refusal(call: Promise<unknown>): Promise<string> {
  try {
    await call;
  } catch (error) {
    if (!(error instanceof ConvexError)) {
      throw error;
    }
    const data = typeof error.data === "string" ? JSON.parse(error.data) : error.data;
    if (data.backfill !== VERSION) {
      throw error;
    }
    return data.code;
  }
  throw new Error("the call was not refused");
}
