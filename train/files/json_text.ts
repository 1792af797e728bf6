/**
 * JSON text from files that may be broken or hostile: read member by member, each key once, and never nested too deeply.
 *
 * @module
 */

/** Deeper than anything in a model's files; `JSON.stringify` of deep values, as in an error, would end in a stack overflow. */
const DEEPEST = 64;

const [QUOTE, COMMA, COLON, BACKSLASH] = [0x22, 0x2c, 0x3a, 0x5c];
const [ARRAY, ARRAY_END, OBJECT, OBJECT_END] = [0x5b, 0x5d, 0x7b, 0x7d];

/** A value of a file as an error shows it: short, on one line. */
export function brief(value: unknown, most = 80): string {
  // Cut before it is quoted: a name may be as long as the file.
  const text = JSON.stringify(typeof value === "string" ? value.slice(0, most) : value) ??
    "nothing";
  if (typeof value === "string") return value.length > most ? `${text.slice(0, -1)}…"` : text;
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

/** One past the quote that ends the string whose first quote is at `at`; the text's end where there is none. */
function stringEnd(text: string, at: number): number {
  for (let end = text.indexOf('"', at + 1); end > 0; end = text.indexOf('"', end + 1)) {
    let slashes = 0;
    while (text.charCodeAt(end - 1 - slashes) === BACKSLASH) slashes++;
    if (slashes % 2 === 0) return end + 1;
  }
  return text.length;
}

/** One past the value that begins at `at`, found by its brackets and quotes alone: `JSON.parse` must still look at it. */
function valueEnd(text: string, at: number): number {
  let depth = 0;
  while (at < text.length) {
    const code = text.charCodeAt(at);
    if (code === QUOTE) {
      at = stringEnd(text, at);
      continue;
    }
    if (code === ARRAY || code === OBJECT) {
      if (++depth > DEEPEST) {
        throw new SyntaxError(`found values nested more than ${DEEPEST} deep at character ${at}`);
      }
    } else if (code === ARRAY_END || code === OBJECT_END) {
      if (--depth < 0) return at;
    } else if (code === COMMA && depth === 0) return at;
    at++;
  }
  return at;
}

/**
 * Throws unless a text's brackets are nested at most 64 deep.
 *
 * @throws {SyntaxError} saying where they are deeper
 */
export function checkDepth(text: string): void {
  // A comma outside of brackets, or a bracket too many, ends a value: what follows is no JSON, which the parser will say.
  valueEnd(text, 0);
}

/**
 * Throws if a text has more than so many commas: every value but the first of its kind costs one.
 *
 * @throws {SyntaxError} saying how many are allowed
 */
export function checkCount(text: string, most: number): void {
  let count = 0;
  for (let at = text.indexOf(","); at >= 0; at = text.indexOf(",", at + 1)) {
    if (++count > most) throw new SyntaxError(`found more than ${most} values`);
  }
}

/**
 * Throws if an object has a key twice; or an object in it, so many levels deep.
 *
 * @throws {SyntaxError} naming the key
 */
export function checkKeys(text: string, levels: number): void {
  for (const [, value] of members(text)) {
    if (levels > 1 && value.startsWith("{")) checkKeys(value, levels - 1);
  }
}

const BLANKS = /[ \t\n\r]*/y;

/** The place of the next character that is not blank. */
function skip(text: string, at: number): number {
  BLANKS.lastIndex = at;
  BLANKS.test(text);
  return BLANKS.lastIndex;
}

function fault(text: string, at: number, wanted: string): SyntaxError {
  const found = at < text.length ? brief(text[at]) : "the end";
  return new SyntaxError(`found ${found} at character ${at}, wanted ${wanted}`);
}

/**
 * The members of the object that a text holds, one after the other, so that the first bad one ends the work: key, and the text of
 * the value, which is not parsed yet.
 *
 * @throws {SyntaxError} if the text is not an object, has a key twice, or is nested too deeply
 */
export function* members(text: string): Generator<[key: string, value: string]> {
  const seen = new Set<string>();
  let at = skip(text, 0);
  if (text.charCodeAt(at) !== OBJECT) throw fault(text, at, "a JSON object");
  at = skip(text, at + 1);
  if (text.charCodeAt(at) === OBJECT_END) at++;
  else {
    while (true) {
      if (text.charCodeAt(at) !== QUOTE) throw fault(text, at, "a key in quotes");
      const end = stringEnd(text, at);
      const key: string = JSON.parse(text.slice(at, end));
      if (seen.has(key)) throw new SyntaxError(`found ${brief(key)} twice, wanted each key once`);
      seen.add(key);
      at = skip(text, end);
      if (text.charCodeAt(at) !== COLON) throw fault(text, at, 'a ":"');
      const from = skip(text, at + 1);
      at = valueEnd(text, from);
      yield [key, text.slice(from, at)];
      if (text.charCodeAt(at) === OBJECT_END) break;
      if (text.charCodeAt(at) !== COMMA) throw fault(text, at, 'a "," or a "}"');
      at = skip(text, at + 1);
    }
    at++;
  }
  at = skip(text, at);
  if (at < text.length) throw fault(text, at, "nothing after the object");
}
