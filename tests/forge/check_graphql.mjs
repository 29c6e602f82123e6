// Hold GraphQL operations, a JSON list on the standard input, to GitHub's schema; print what is wrong with them.
import { readFileSync } from "node:fs";
import { buildSchema, parse, validate } from "graphql";

const path = new URL("node_modules/@octokit/graphql-schema/schema.graphql", import.meta.url);
// The schema itself has flaws, such as a field that is defined twice.
const schema = buildSchema(readFileSync(path, "utf8"), { assumeValid: true, assumeValidSDL: true });
const operations = JSON.parse(readFileSync(0, "utf8"));
const errors = operations.flatMap((text) => validate(schema, parse(text)));
console.log(JSON.stringify(errors.map((error) => error.message)));
