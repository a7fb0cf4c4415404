/** What the functions do at the limits of a transaction, and over many calls. */
import { describe, expect, test } from "vitest";
import { deployment, fill, held, page, patch, refusal } from "./deployment";
import type { Fields } from "./deployment";

const people = (count: number): Fields[] =>
  Array.from({ length: count }, (_, number) => ({ clerkId: `user_${number}`, firstName: `Ada ${number}` }));

const renamed = (ids: string[], first = 0) =>
  ids.map((id, place) => ({
    id,
    clerkId: `user_${first + place}`,
    before: { firstName: `Ada ${first + place}` },
    after: { firstName: `Bea ${first + place}` },
  }));

describe("a page", () => {
  test("all rows come once, in the order of their creation, whatever the size of a page", async () => {
    const t = deployment();
    const ids = await fill(t, people(23));
    for (const rows of [1, 7, 23, 100]) {
      const found: string[] = [];
      let cursor: string | null = null;
      for (let done = false; !done; ) {
        const answer: { rows: { id: string }[]; cursor: string; isDone: boolean } = await page(t, { cursor, rows });
        expect(answer.rows.length).toBeLessThanOrEqual(rows);
        found.push(...answer.rows.map((each) => each.id));
        expect(found.length, "the same rows again").toBeLessThanOrEqual(ids.length);
        cursor = answer.cursor;
        done = answer.isDone;
      }
      expect(found).toEqual(ids);
    }
  });

  test("rows that come, go and change meanwhile move no other row", async () => {
    const t = deployment();
    const ids = await fill(t, people(9));
    const first = await page(t, { rows: 4 });
    await t.run(async (ctx) => {
      await ctx.db.delete(ids[0] as never);
      await ctx.db.delete(ids[5] as never);
      await ctx.db.patch(ids[1] as never, { firstName: "Zora" });
      await ctx.db.patch(ids[6] as never, { clerkId: "user_a" });
    });
    const [last] = await fill(t, [{ clerkId: "user_new" }]);
    const second = await page(t, { rows: 100, cursor: first.cursor });
    const found = [...first.rows, ...second.rows].map((each: { id: string }) => each.id);
    expect(found).toEqual([...ids.filter((id) => id !== ids[5]), last]);
    expect(second.isDone).toBe(true);
  });

  test("one that reads too many documents says so, and half of it does not", async () => {
    const t = deployment({ limits: { documentsRead: 5 } });
    await fill(t, people(5));
    await fill(t, people(5));
    expect(await refusal(page(t, { rows: 10 }))).toBe("too_much");
    expect((await page(t, { rows: 5 })).rows).toHaveLength(5);
  });

  test("one that reads too many bytes says so", async () => {
    const t = deployment({ limits: { bytesRead: 2_000 } });
    await fill(t, [{ clerkId: "user_1", bio: "x".repeat(1_500) }, { clerkId: "user_2", bio: "x".repeat(1_500) }]);
    expect(await refusal(page(t, { rows: 2 }))).toBe("too_much");
    expect((await page(t, { rows: 1 })).rows).toHaveLength(1);
  });

  test("4,000 rows are one page under Convex's own limits", async () => {
    const t = deployment();
    await fill(t, people(4_000));
    const answer = await page(t, { rows: 4_000 });
    expect(answer.rows).toHaveLength(4_000);
  });
});

describe("a batch", () => {
  test("500 rows are one batch under Convex's own limits, and again they are there already", async () => {
    const t = deployment();
    const ids = await fill(t, people(500));
    const patches = renamed(ids);
    expect((await patch(t, patches)).outcomes).toEqual(ids.map(() => "patched"));
    expect((await patch(t, patches)).outcomes).toEqual(ids.map(() => "already"));
    expect(await held(t, ids[499]!)).toEqual({ clerkId: "user_499", firstName: "Bea 499" });
  });

  test("500 rows that are all somebody else's now are one batch, too", async () => {
    const t = deployment();
    const ids = await fill(t, people(500));
    const patches = renamed(ids, 1_000);
    expect((await patch(t, patches)).outcomes).toEqual(ids.map(() => "other_clerk_id"));
  });

  test("one row takes one range of an index", async () => {
    const t = deployment({ limits: { databaseQueries: 8 } });
    const ids = await fill(t, people(8));
    expect((await patch(t, renamed(ids.slice(0, 7)))).outcomes).toHaveLength(7);
    expect(await refusal(patch(t, renamed(ids)))).toBe("too_much");
  });

  test.each(["documentsWritten", "documentsRead", "databaseQueries"] as const)(
    "one over the limit of %s says so and writes nothing; its halves are written",
    async (limit) => {
      const t = deployment({ limits: { [limit]: { documentsWritten: 5, documentsRead: 12, databaseQueries: 6 }[limit] } });
      const ids = [...(await fill(t, people(4))), ...(await fill(t, people(8).slice(4)))];
      const patches = renamed(ids);
      expect(await refusal(patch(t, patches))).toBe("too_much");
      for (const [number, id] of ids.entries()) {
        expect(await held(t, id)).toEqual({ clerkId: `user_${number}`, firstName: `Ada ${number}` });
      }
      expect((await patch(t, patches.slice(0, 4))).outcomes).toEqual(Array(4).fill("patched"));
      expect((await patch(t, patches.slice(4))).outcomes).toEqual(Array(4).fill("patched"));
    },
  );

  test("one row of it that is refused loudly takes the whole batch with it", async () => {
    const t = deployment();
    const ids = await fill(t, people(2));
    const patches = [...renamed(ids), { id: ids[0]!, clerkId: "user_0", before: {}, after: { role: "admin" } }];
    expect(await refusal(patch(t, patches))).toBe("bad_request");
    expect(await held(t, ids[0]!)).toEqual({ clerkId: "user_0", firstName: "Ada 0" });
  });

  test("an id of another table is missing", async () => {
    const t = deployment();
    const [id] = await fill(t, [{ clerkId: "user_0", firstName: "Ada 0" }], "members");
    expect((await patch(t, renamed([id!]))).outcomes).toEqual(["missing"]);
  });

  test("a time that the table holds as int64 is compared as a number", async () => {
    const t = deployment();
    const [id] = await fill(t, [{ clerkId: "user_0", createdAt: 1_700_000_000_000n }]);
    const one = { id: id!, clerkId: "user_0", before: { createdAt: 1 }, after: { createdAt: 1_700_000_000_000 } };
    expect((await patch(t, [one])).outcomes).toEqual(["already"]);
  });
});
