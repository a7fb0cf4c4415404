/** What the functions mean, by the examples that the sandbox is held to as well. */
import { describe, expect, test } from "vitest";
import { deployment, fill, held, NAMES, page, patch, refusal, VERSION } from "./deployment";
import { anyApi } from "convex/server";
import type { Value } from "convex/values";
import type { Deployment, Fields, Kinds } from "./deployment";
import cases from "./cases.json";

type Example = { as: string; document: Fields; deleted?: boolean };

/** Insert the documents of a case; their ids by name. */
async function inserted(t: Deployment, documents: Example[], table: string): Promise<Record<string, string>> {
  const ids = await fill(t, documents.map((each) => each.document), table);
  for (const [place, each] of documents.entries()) {
    if (each.deleted) {
      await t.run(async (ctx) => await ctx.db.delete(ids[place] as never));
    }
  }
  return Object.fromEntries(documents.map((each, place) => [each.as, ids[place]!]));
}

/** The same with the id in the place of each `@name`. */
function withIds<Part>(part: Part, ids: Record<string, string>): Part {
  return JSON.parse(JSON.stringify(part), (_, value) =>
    typeof value === "string" && value.startsWith("@") ? ids[value.slice(1)] : value,
  );
}

describe("patch", () => {
  for (const each of cases.patches) {
    test(each.name, async () => {
      const names = { ...NAMES, ...("names" in each ? each.names : {}) };
      const t = deployment({ kinds: "kinds" in each ? (each.kinds as unknown as Kinds) : undefined });
      const ids = await inserted(t, each.documents as unknown as Example[], names.table);
      const patches = withIds(each.patches, ids) as unknown as Value;
      expect(await patch(t, patches, names)).toEqual({ version: VERSION, outcomes: each.outcomes });
      for (const [name, left] of Object.entries("left" in each ? (each.left ?? {}) : {})) {
        expect(await held(t, ids[name]!), name).toEqual(left);
      }
    });
  }
});

describe("page", () => {
  for (const each of cases.pages) {
    test(each.name, async () => {
      const names = { ...NAMES, ...("names" in each ? each.names : {}) };
      const t = deployment();
      const ids = await inserted(t, each.documents as unknown as Example[], names.table);
      const answer = await page(t, names);
      expect(answer).toEqual({
        version: VERSION,
        rows: withIds(each.rows, ids),
        cursor: expect.any(String),
        isDone: true,
      });
    });
  }
});

describe("refused is", () => {
  for (const each of cases.refused) {
    const kinds = "of" in each ? [each.of] : ["page", "patch"];
    for (const kind of kinds) {
      test(`${each.name} (${kind})`, async () => {
        const names = { ...NAMES, ...("names" in each ? each.names : {}) } as Fields;
        const t = deployment();
        await inserted(t, ("documents" in each ? each.documents : []) as unknown as Example[], String(names["table"]));
        const own = kind === "page" ? { cursor: null, rows: 10 } : { patches: [] };
        const given = "request" in each ? each.request : own;
        const request = given === null ? null : ({ ...names, ...given } as unknown as Value);
        const args = { version: "version" in each ? each.version : VERSION, request };
        const call = kind === "page" ? t.query(anyApi.backfill!.page!, args) : t.mutation(anyApi.backfill!.patch!, args);
        expect(await refusal(call)).toBe(each.code);
      });
    }
  }
});
