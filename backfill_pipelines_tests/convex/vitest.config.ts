import { defineConfig } from "vitest/config";

const installed = (path: string) => decodeURIComponent(new URL(`./node_modules/${path}`, import.meta.url).pathname);

export default defineConfig({
  // The functions lie outside of this folder, as they do in a user's project: they are given this folder's packages.
  resolve: { alias: [{ find: /^convex\/(server|values)$/, replacement: `${installed("convex/dist/esm")}/$1/index.js` }] },
  test: {
    environment: "edge-runtime",
    include: ["*.test.ts"],
    server: { deps: { inline: ["convex-test"] } },
  },
});
