/**
 * The glob rules of Redis' `PSUBSCRIBE`, so that an event finds the pattern subscriptions that it belongs to.
 * As in Redis, the unit is the byte of UTF-8: `?` is one byte, and so is a member of a class.
 */

const utf8 = new TextEncoder();

const [STAR, QUESTION, OPEN, CLOSE, BACKSLASH, CARET, DASH] = [..."*?[]\\^-"].map((c) => c.charCodeAt(0)) as [
  number, number, number, number, number, number, number,
];

/** Whether a channel name is a pattern. */
export function isPattern(channel: string): boolean {
  return /[*?[]/.test(channel);
}

/** A test for one pattern. */
export function globMatcher(pattern: string): (channel: string) => boolean {
  const glob = utf8.encode(pattern);
  return (channel) => matches(glob, utf8.encode(channel));
}

/** Without recursion: after a mismatch only the last star needs to try again, one byte further. */
function matches(glob: Uint8Array, text: Uint8Array): boolean {
  let g = 0;
  let t = 0;
  let starAt = -1;
  let starText = 0;
  while (t < text.length) {
    if (glob[g] === STAR) {
      starAt = g++;
      starText = t;
      continue;
    }
    const next = g < glob.length ? matchOne(glob, g, text[t]!) : -1;
    if (next >= 0) {
      g = next;
      t++;
    } else if (starAt >= 0) {
      g = starAt + 1;
      t = ++starText;
    } else {
      return false;
    }
  }
  while (glob[g] === STAR) g++;
  return g === glob.length;
}

/** The place behind the element at `g` if it matches `byte`, else -1. */
function matchOne(glob: Uint8Array, g: number, byte: number): number {
  switch (glob[g]) {
    case QUESTION:
      return g + 1;
    case OPEN:
      return matchClass(glob, g + 1, byte);
    case BACKSLASH:
      // A backslash at the very end stands for itself.
      if (g + 1 < glob.length) g++;
      return glob[g] === byte ? g + 1 : -1;
    default:
      return glob[g] === byte ? g + 1 : -1;
  }
}

/** `g` is behind the `[`. A class that is never closed ends with the pattern. */
function matchClass(glob: Uint8Array, g: number, byte: number): number {
  const negated = glob[g] === CARET;
  if (negated) g++;
  let found = false;
  while (g < glob.length && glob[g] !== CLOSE) {
    if (glob[g] === BACKSLASH && g + 1 < glob.length) {
      found ||= glob[g + 1] === byte;
      g += 2;
    } else if (glob[g + 1] === DASH && g + 2 < glob.length) {
      const [low, high] = [Math.min(glob[g]!, glob[g + 2]!), Math.max(glob[g]!, glob[g + 2]!)];
      found ||= low <= byte && byte <= high;
      g += 3;
    } else {
      found ||= glob[g] === byte;
      g++;
    }
  }
  return found !== negated ? Math.min(g + 1, glob.length) : -1;
}
