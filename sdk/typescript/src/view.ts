/** What a subscription is shown of its channel: filter and area as values, and what tells one view from another. */

import { DrawbridgeError } from "./errors.js";

/** A circle, a box, or a circle around an entity that the server lets this player follow; in the game's own units. */
export type Area =
  | { x: number; y: number; radius: number }
  | { min: readonly [x: number, y: number]; max: readonly [x: number, y: number] }
  | { follow: string; radius: number };

export interface View {
  readonly filter?: string;
  readonly area?: Area;
}

/** A change of a view: `null` removes, what is absent stays as it is. */
export interface ViewOptions {
  filter?: string | null;
  area?: Area | null;
}

/** Throws on an area that no message can carry. */
export function changedView(view: View, { filter = view.filter ?? null, area = view.area ?? null }: ViewOptions): View {
  return { ...(filter !== null && { filter }), ...(area !== null && { area: checked(area) }) };
}

/** What leads from one view to another; undefined where they are the same. */
export function difference(from: View, to: View): ViewOptions | undefined {
  const filter = from.filter !== to.filter;
  const area = !sameArea(from.area, to.area);
  if (!filter && !area) return undefined;
  return { ...(filter && { filter: to.filter ?? null }), ...(area && { area: to.area ?? null }) };
}

/** `asked` was refused: what is wanted of it still goes back to what was in force; what changed since stays wanted. */
export function withoutRefused(wanted: View, asked: View, inForce: View): View {
  const filter = wanted.filter === asked.filter ? inForce.filter : wanted.filter;
  const area = sameArea(wanted.area, asked.area) ? inForce.area : wanted.area;
  return { ...(filter !== undefined && { filter }), ...(area !== undefined && { area }) };
}

function sameArea(a: Area | undefined, b: Area | undefined): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** A copy, so that a later change of the object does not show, and with nothing in it that JSON cannot say. */
function checked(area: Area): Area {
  const copy: Area =
    "min" in area
      ? { min: [area.min[0], area.min[1]], max: [area.max[0], area.max[1]] }
      : "follow" in area
        ? { follow: area.follow, radius: area.radius }
        : { x: area.x, y: area.y, radius: area.radius };
  for (const value of Object.values(copy).flat()) {
    if (typeof value === "number" ? !Number.isFinite(value) : value === undefined) {
      throw new DrawbridgeError("FILTER_INVALID", "an area is {x, y, radius}, {min, max} or {follow, radius}, in finite numbers");
    }
  }
  return copy;
}
