// Vercel's AI SDK, with each of the providers that reach such a server.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, embedMany, generateObject, generateText, streamObject, streamText, tool } from "ai";
import {
  Person,
  WeatherInput,
  apiKey,
  askPerson,
  askWeather,
  baseURL,
  embeddingModel,
  japan,
  model,
} from "./target.mjs";

const openai = createOpenAI({ baseURL, apiKey });
const compatible = createOpenAICompatible({
  name: "gateway",
  baseURL,
  apiKey,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const providers = {
  chat: openai.chat(model),
  responses: openai(model),
  compatible: compatible(model),
};
const tools = () => ({
  get_weather: tool({
    description: "Get the weather in a city.",
    inputSchema: WeatherInput,
    execute: async () => "sunny",
  }),
});

for (const [name, provider] of Object.entries(providers)) {
  const asked = (prompt) => ({
    model: provider,
    prompt,
    temperature: 0,
    maxOutputTokens: 100,
    maxRetries: 0,
  });

  describe(name, () => {
    test("generateText", async () => {
      const { text, finishReason, usage } = await generateText(asked(japan));
      assert.match(text, /Tokyo/);
      assert.equal(finishReason, "stop");
      assert.equal(usage.totalTokens, usage.inputTokens + usage.outputTokens);
    });

    test("generateText says that its limit was reached", async () => {
      const { finishReason } = await generateText({ ...asked("Tell a story."), maxOutputTokens: 16 });
      assert.equal(finishReason, "length");
    });

    test("streamText", async () => {
      const result = streamText(asked(japan));
      let text = "";
      for await (const delta of result.textStream) text += delta;
      assert.match(text, /Tokyo/);
      assert.equal(await result.finishReason, "stop");
      assert.ok((await result.usage).outputTokens > 0);
    });

    test("generateObject", async () => {
      const { object } = await generateObject({ ...asked(askPerson), schema: Person });
      assert.ok(Person.parse(object));
    });

    test("streamObject", async () => {
      const result = streamObject({ ...asked(askPerson), schema: Person });
      let partial;
      for await (partial of result.partialObjectStream);
      assert.deepEqual(partial, await result.object);
    });

    test("generateText with an output schema", async () => {
      const output = Output.object({ schema: Person });
      assert.ok(Person.parse((await generateText({ ...asked(askPerson), output })).output));
    });

    test("generateText with a tool, which is run", async () => {
      const result = await generateText({
        ...asked(askWeather),
        tools: tools(),
        toolChoice: { type: "tool", toolName: "get_weather" },
      });
      assert.equal(result.finishReason, "tool-calls");
      assert.equal(result.toolResults[0].output, "sunny");
      assert.ok(WeatherInput.parse(result.toolCalls[0].input));
    });

    test("streamText with a tool, whose result is taken back", async () => {
      const first = streamText({ ...asked(askWeather), tools: tools(), toolChoice: "required" });
      const parts = [];
      for await (const part of first.fullStream) parts.push(part.type);
      assert.ok(parts.includes("tool-call") && parts.includes("tool-result"));
      const { prompt, ...rest } = asked(askWeather);
      const last = await generateText({
        ...rest,
        messages: [{ role: "user", content: prompt }, ...(await first.response).messages],
        tools: tools(),
        toolChoice: "none",
      });
      assert.ok(last.text);
    });

    test("a refusal carries its status and is not retried", async () => {
      const refused = generateText({ ...asked(japan), temperature: 3 });
      await assert.rejects(refused, (error) => error.statusCode === 400 && !error.isRetryable);
    });
  });
}

test("embedMany", { skip: !embeddingModel }, async () => {
  const { embeddings } = await embedMany({
    model: compatible.embeddingModel(embeddingModel),
    values: ["one", "two"],
  });
  assert.equal(embeddings.length, 2);
});
