import assert from "node:assert/strict";
import { test } from "node:test";
import { globMatcher, isPattern } from "../dist/drawbridge.js";

// As `PSUBSCRIBE` of Redis has it: pattern, channel, whether.
const rows = [
  ["*", "", true],
  ["*", "anything:at:all", true],
  ["room:*", "room:", true],
  ["room:*", "room:1:2", true],
  ["room:*", "roo:1", false],
  ["*:chat", "a:b:chat", true],
  ["*:chat", "a:chat:b", false],
  ["a*b*c", "aXbXbXc", true],
  ["a*b*c", "aXbX", false],
  ["**", "", true],
  ["a**", "a", true],
  ["room:?", "room:1", true],
  ["room:?", "room:", false],
  ["room:?", "room:12", false],
  ["?", "é", false],
  ["??", "é", true],
  ["room:[12]", "room:1", true],
  ["room:[12]", "room:3", false],
  ["room:[a-c]", "room:b", true],
  ["room:[c-a]", "room:b", true],
  ["room:[^a-c]", "room:b", false],
  ["room:[^a-c]", "room:x", true],
  ["room:[^a-c]", "room:", false],
  ["[]", "a", false],
  ["[^]", "a", true],
  ["[a", "a", true],
  ["[a", "b", false],
  ["[a-", "-", true],
  ["[a-]b]", "c", false],
  ["[a-]b]", "^", true],
  ["[\\]]", "]", true],
  ["[\\^a]", "^", true],
  ["\\*", "*", true],
  ["\\*", "a", false],
  ["a\\", "a\\", true],
  ["\\?\\[", "?[", true],
  ["exact", "exact", true],
  ["exact", "exacts", false],
  ["Exact", "exact", false],
  ["a*a*a*a*a*a*a*a*a*a*b", "a".repeat(200), false],
];

for (const [pattern, channel, expected] of rows) {
  test(`${JSON.stringify(pattern)} ${expected ? "covers" : "does not cover"} ${JSON.stringify(channel.slice(0, 20))}`, () => {
    assert.equal(globMatcher(pattern)(channel), expected);
  });
}

test("a name is a pattern if it holds a glob character", () => {
  assert.deepEqual(["a", "a*", "a?", "a[b]", "a]", "a\\b"].map(isPattern), [false, true, true, true, false, false]);
});
