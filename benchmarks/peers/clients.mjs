// Real clients of OpenAI's API in JavaScript: node clients.mjs PACKAGES URL PICTURE, as clients.py.
// PACKAGES is the folder whose node_modules hold them (install.sh clients FOLDER makes FOLDER/npm).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, url, picture] = process.argv.slice(2);
const require = createRequire(pathToFileURL(join(folder, "package.json")));
const load = (name) => import(pathToFileURL(require.resolve(name)));
const version = (name) =>
  JSON.parse(readFileSync(join(folder, "node_modules", name, "package.json"))).version;
const tell = (client, name, did) => console.log(JSON.stringify({ client, version: version(name), did }));
const bytes = readFileSync(picture);
const data = `data:image/png;base64,${bytes.toString("base64")}`;

async function askOpenai() {
  const { OpenAI } = await load("openai");
  const client = new OpenAI({ baseURL: url, apiKey: "none" });
  const messages = [{ role: "user", content: [
    { type: "image_url", image_url: { url: data } }, { type: "text", text: "What color?" },
  ] }];
  const how = { model: "tiny", temperature: 0 };
  const whole = await client.chat.completions.create({ ...how, messages, max_tokens: 8 });
  const stream = await client.chat.completions.create({ ...how, messages, max_tokens: 8, stream: true });
  let text = "";
  for await (const event of stream) text += event.choices[0].delta.content ?? "";
  assert.equal(text, whole.choices[0].message.content);
  const input = [{ role: "user", content: [
    { type: "input_image", image_url: data, detail: "auto" }, { type: "input_text", text: "What color?" },
  ] }];
  const response = await client.responses.create({ ...how, input, max_output_tokens: 8 });
  assert.equal(response.output_text, text);
  const events = client.responses.stream({ ...how, input, max_output_tokens: 8 });
  assert.equal((await events.finalResponse()).output_text, text);
  const vectors = await client.embeddings.create({ model: "tiny", input: ["a"] });
  assert.ok(vectors.data[0].embedding.length);
  tell("openai (npm)", "openai", ["chat, stream", "responses, stream", "embeddings"]);
}

async function askAiSdk() {
  const { embed, generateObject, generateText, streamText } = await load("ai");
  const { createOpenAI } = await load("@ai-sdk/openai");
  const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
  const { z } = await load("zod");
  const shape = z.object({ color: z.enum(["red", "blue"]), round: z.boolean() });
  const schema = z.object({ front: shape, behind: shape });
  const messages = [{ role: "user", content: [{ type: "image", image: bytes }, { type: "text", text: "What color?" }] }];
  const theirs = createOpenAI({ baseURL: url, apiKey: "none" });
  const like = createOpenAICompatible({
    baseURL: url, apiKey: "none", name: "llavakit", supportsStructuredOutputs: true,
  });
  for (const model of [theirs("tiny"), theirs.chat("tiny"), like("tiny")]) {
    const how = { model, messages, temperature: 0, maxRetries: 0 };
    const whole = await generateText({ ...how, maxOutputTokens: 8 });
    let text = "";
    for await (const piece of streamText({ ...how, maxOutputTokens: 8 }).textStream) text += piece;
    assert.equal(text, whole.text);
    const { object } = await generateObject({ ...how, schema, maxOutputTokens: 4000 });
    schema.parse(object);
  }
  const { embedding } = await embed({ model: theirs.embedding("tiny"), value: "a" });
  assert.ok(embedding.length);
  tell("AI SDK", "ai", ["text, stream, objects, by responses and by chat", "embeddings"]);
}

await askOpenai();
await askAiSdk();
