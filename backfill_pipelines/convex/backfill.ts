/**
 * Two functions that keep eight profile fields of a users table equal to Clerk's, called over HTTP with a deploy key.
 *
 * Belongs here: reading a table page by page, and writing fields by compare-and-set. Does not belong here: what a field
 * should hold. Copy this file into your `convex/` folder (or run `backfill convex install convex/`), then
 * `npx convex deploy`. It needs no generated code and no schema of its own; both functions are internal, so no browser
 * and no user can call them.
 *
 * Whatever can be foreseen to go wrong is thrown as a `ConvexError` with a code: a production deployment hides the text
 * of every other error. Codes hold no value of a row.
 */
import { internalMutationGeneric, internalQueryGeneric } from "convex/server";
import { ConvexError, v } from "convex/values";
import type { GenericDatabaseReader, GenericDatabaseWriter, GenericDataModel } from "convex/server";
import type { GenericId, Value } from "convex/values";

/** Caller and functions must agree on this number. Raise it with every change of what is asked or answered. */
const VERSION = 1;

const TEXT_FIELDS = ["firstName", "lastName", "email", "username", "imageUrl"];
/** Milliseconds since 1970. */
const TIME_FIELDS = ["lastSignInAt", "createdAt", "lastActiveAt"];
const FIELDS = [...TEXT_FIELDS, ...TIME_FIELDS];

/** An array holds at most 8,192 elements in Convex; a page is one. */
const MOST_ROWS_A_PAGE = 8192;

type Code =
  | "other_version"
  | "bad_request"
  | "missing_table"
  | "missing_index"
  | "index_not_ready"
  | "cursor_refused"
  | "too_much";

type Outcome =
  /** The fields were written. */
  | "patched"
  /** They hold the new values already: the reply to an earlier call was lost, or somebody else was faster. */
  | "already"
  /** A field holds something else than expected; nothing was written. */
  | "conflict"
  /** The row is gone. */
  | "missing"
  /** The row belongs to another Clerk id than expected. */
  | "other_clerk_id"
  /** Several rows have this Clerk id; nothing was written. */
  | "duplicate_rows"
  /** The table's schema does not allow the new values; nothing was written. */
  | "refused_by_schema";

/** The eight fields, as far as a row has them: one that is absent has no key, one that is null is null. */
type Fields = Record<string, Value>;

type Names = { table: string; index: string; idField: string };
type PageRequest = Names & { cursor: string | null; rows: number };
/** Every field that is in `before` or in `after` is compared and written; a key that is in only one of them says that
 * the field is expected to be absent, or is removed. */
type Patch = { id: string; clerkId: string; before: Fields; after: Fields };
type PatchRequest = Names & { patches: Patch[] };

type Row = { id: string; clerkId?: Value; fields: Fields };
type Document = { _id: GenericId<string> } & Record<string, Value | undefined>;

/** The next rows of a table, oldest first. Start with the cursor null, go on with the one of the answer until `isDone`;
 * a page may be shorter than was asked for. */
export const page = internalQueryGeneric({
  // The request is checked by hand, after the version: a validator's refusal would be hidden in production.
  args: { version: v.number(), request: v.any() },
  handler: async (ctx, args): Promise<{ version: number; rows: Row[]; cursor: string; isDone: boolean }> => {
    requireVersion(args.version);
    const request = pageRequest(args.request);
    await requireIndex(ctx.db, request);
    const found = await explained(() =>
      ctx.db.query(request.table).paginate({ cursor: request.cursor, numItems: request.rows }),
    );
    const rows = found.page.map((document) => row(document as Document, request.idField));
    return { version: VERSION, rows, cursor: found.continueCursor, isDone: found.isDone };
  },
});

/** Write fields of several rows in one transaction; one outcome for each, in their order. May be called again with the
 * same patches: what was written then is `already`. */
export const patch = internalMutationGeneric({
  args: { version: v.number(), request: v.any() },
  handler: async (ctx, args): Promise<{ version: number; outcomes: Outcome[] }> => {
    requireVersion(args.version);
    const request = patchRequest(args.request);
    await requireIndex(ctx.db, request);
    const outcomes: Outcome[] = [];
    for (const each of request.patches) {
      outcomes.push(await explained(() => patchOne(ctx.db, request, each)));
    }
    return { version: VERSION, outcomes };
  },
});

async function patchOne(db: GenericDatabaseWriter<GenericDataModel>, names: Names, patch: Patch): Promise<Outcome> {
  // In the usual case this one range tells everything; a `get` as well would double the reads of a batch.
  const holders = await withClerkId(db, names, patch.clerkId);
  if (holders.length > 1) {
    return "duplicate_rows";
  }
  const document = holders[0];
  if (document === undefined || document._id !== patch.id) {
    const id = db.normalizeId(names.table, patch.id);
    const exists = id !== null && (await db.get(id)) !== null;
    return exists ? "other_clerk_id" : "missing";
  }
  const fields = FIELDS.filter((field) => field in patch.before || field in patch.after);
  if (fields.every((field) => same(document[field], patch.after[field]))) {
    return "already";
  }
  if (!fields.every((field) => same(document[field], patch.before[field]))) {
    return "conflict";
  }
  // To set a field to undefined is to remove it.
  const changes = Object.fromEntries(fields.map((field) => [field, patch.after[field]]));
  try {
    await db.patch(document._id, changes);
  } catch (error) {
    if (isTooMuch(error)) {
      throw error;
    }
    return "refused_by_schema";
  }
  return "patched";
}

/** Up to two rows: enough to tell whether there is one. */
async function withClerkId(
  db: GenericDatabaseReader<GenericDataModel>,
  names: Names,
  clerkId: string,
): Promise<Document[]> {
  const query = db.query(names.table).withIndex(names.index, (range) => range.eq(names.idField, clerkId));
  return (await query.take(2)) as Document[];
}

/** An index that does not exist, or not on this field, is found here, before anything else is done. */
async function requireIndex(db: GenericDatabaseReader<GenericDataModel>, names: Names): Promise<void> {
  try {
    await withClerkId(db, names, "");
  } catch (error) {
    if (/backfilling|staged/i.test(text(error))) {
      throw failure("index_not_ready");
    }
    throw failure((await hasRows(db, names.table)) ? "missing_index" : "missing_table");
  }
}

/** A table comes into being with its first row: to Convex one without rows and one that is not there are the same. */
async function hasRows(db: GenericDatabaseReader<GenericDataModel>, table: string): Promise<boolean> {
  try {
    return (await db.query(table).first()) !== null;
  } catch {
    return false; // the name is none that a table can have
  }
}

function row(document: Document, idField: string): Row {
  const fields: Fields = {};
  for (const field of FIELDS) {
    const value = document[field];
    if (value !== undefined) {
      fields[field] = value;
    }
  }
  const clerkId = document[idField];
  return clerkId === undefined ? { id: document._id, fields } : { id: document._id, clerkId, fields };
}

/** Numbers are compared as numbers: a table may hold them as int64. */
function same(left: Value | undefined, right: Value | undefined): boolean {
  if (typeof left === "bigint" && typeof right === "number") {
    return Number(left) === right;
  }
  return left === right;
}

function failure(code: Code): ConvexError<{ backfill: number; code: Code }> {
  return new ConvexError({ backfill: VERSION, code });
}

/** Do it, and say with a code where Convex would say it with a text. */
async function explained<Result>(work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof ConvexError) {
      throw error;
    }
    if (isTooMuch(error)) {
      throw failure("too_much");
    }
    if (/cursor/i.test(text(error))) {
      throw failure("cursor_refused");
    }
    throw error;
  }
}

/** All limits of a transaction speak of too many or too much of something. */
function isTooMuch(error: unknown): boolean {
  return /\btoo (many|much)\b/i.test(text(error));
}

function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function requireVersion(version: number): void {
  if (version !== VERSION) {
    throw failure("other_version");
  }
}

function pageRequest(given: unknown): PageRequest {
  const { table, index, idField, cursor, rows, ...others } = record(given);
  const paged = typeof rows === "number" && Number.isInteger(rows) && rows >= 1 && rows <= MOST_ROWS_A_PAGE;
  requireAll(paged, cursor === null || typeof cursor === "string", nothingIn(others));
  return { ...names(table, index, idField), cursor: cursor as string | null, rows: rows as number };
}

function patchRequest(given: unknown): PatchRequest {
  const { table, index, idField, patches, ...others } = record(given);
  requireAll(Array.isArray(patches), nothingIn(others));
  return { ...names(table, index, idField), patches: (patches as unknown[]).map(onePatch) };
}

function names(table: unknown, index: unknown, idField: unknown): Names {
  requireAll(typeof table === "string", typeof index === "string", typeof idField === "string");
  requireAll(!FIELDS.includes(idField as string), !(idField as string).startsWith("_"));
  return { table: table as string, index: index as string, idField: idField as string };
}

function onePatch(given: unknown): Patch {
  const { id, clerkId, before, after, ...others } = record(given);
  requireAll(typeof id === "string", typeof clerkId === "string", clerkId !== "", nothingIn(others));
  return { id: id as string, clerkId: clerkId as string, before: fieldsOnly(before), after: fieldsOnly(after) };
}

/** Nothing but the eight fields can be written, and nothing into them but texts, times and null. */
function fieldsOnly(given: unknown): Fields {
  const fields = record(given);
  for (const [field, value] of Object.entries(fields)) {
    const kind = TEXT_FIELDS.includes(field) ? "string" : TIME_FIELDS.includes(field) ? "number" : "none";
    requireAll(typeof value === kind || (value === null && kind !== "none"));
  }
  return fields as Fields;
}

function record(given: unknown): Record<string, unknown> {
  requireAll(typeof given === "object", given !== null, !Array.isArray(given));
  return given as Record<string, unknown>;
}

function nothingIn(others: Record<string, unknown>): boolean {
  return Object.keys(others).length === 0;
}

function requireAll(...conditions: boolean[]): void {
  if (!conditions.every(Boolean)) {
    throw failure("bad_request");
  }
}
