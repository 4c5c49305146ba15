// openai (Node): chat completions and responses, with the helpers the SDK has for them.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
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

const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const ask = (content, fields) => ({
  model,
  messages: [{ role: "user", content }],
  temperature: 0,
  max_completion_tokens: 100,
  ...fields,
});
const weather = { name: "get_weather", parameters: WeatherInput };

test("a completion is whole", async () => {
  const { data, request_id } = await client.chat.completions.create(ask(japan)).withResponse();
  assert.match(data.choices[0].message.content, /Tokyo/);
  assert.equal(data.choices[0].finish_reason, "stop");
  assert.equal(data.usage.total_tokens, data.usage.prompt_tokens + data.usage.completion_tokens);
  assert.ok(request_id);
});

test("a stream adds up to the whole answer", async () => {
  const whole = await client.chat.completions.create(ask(japan));
  let text = "";
  for await (const chunk of await client.chat.completions.create(ask(japan, { stream: true }))) {
    text += chunk.choices[0].delta.content ?? "";
  }
  assert.equal(text, whole.choices[0].message.content);
});

test("the stream helper gives content, the final completion and usage", async () => {
  const stream = client.chat.completions.stream(
    ask(japan, { stream_options: { include_usage: true } }),
  );
  let text = "";
  stream.on("content", (delta) => (text += delta));
  assert.equal(await stream.finalContent(), text);
  assert.equal((await stream.finalChatCompletion()).choices[0].finish_reason, "stop");
  assert.ok((await stream.totalUsage()).completion_tokens > 0);
});

test("a stream can be aborted midway", async () => {
  const stream = await client.chat.completions.create(ask(japan, { stream: true }));
  for await (const chunk of stream) {
    assert.ok(chunk.id);
    break;
  }
  assert.ok(stream.controller.signal.aborted);
});

test("parse gives what the zod schema describes", async () => {
  const answer = await client.chat.completions.parse(
    ask(askPerson, { response_format: zodResponseFormat(Person, "person") }),
  );
  assert.deepEqual(Person.parse(answer.choices[0].message.parsed), answer.choices[0].message.parsed);
});

test("the stream helper parses", async () => {
  const stream = client.chat.completions.stream(
    ask(askPerson, { response_format: zodResponseFormat(Person, "person") }),
  );
  const final = await stream.finalChatCompletion();
  assert.ok(Person.parse(final.choices[0].message.parsed));
});

test("parse gives the arguments of a zod function", async () => {
  const answer = await client.chat.completions.parse(
    ask(askWeather, {
      tools: [zodFunction(weather)],
      tool_choice: "required",
      parallel_tool_calls: false,
    }),
  );
  const [call] = answer.choices[0].message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  assert.ok(WeatherInput.parse(call.function.parsed_arguments));
});

for (const stream of [false, true]) {
  test(`runTools calls the function, stream: ${stream}`, async () => {
    const seen = [];
    const runner = client.chat.completions.runTools(
      ask(askWeather, {
        stream,
        tools: [zodFunction({ ...weather, function: (args) => (seen.push(args), "sunny") })],
        // A tool chosen by name ends the run once it was called.
        tool_choice: { type: "function", function: { name: "get_weather" } },
      }),
    );
    const call = await runner.finalFunctionToolCall();
    assert.equal(call.name, "get_weather");
    assert.equal(await runner.finalFunctionToolCallResult(), "sunny");
    assert.equal(seen.length, 1);
    assert.ok(WeatherInput.parse(seen[0]));
  });
}

test("a response is whole, stored, found and deleted", async () => {
  const made = await client.responses.create({ model, input: japan, max_output_tokens: 40 });
  assert.ok(made.output_text);
  assert.deepEqual((await client.responses.retrieve(made.id)).output, made.output);
  await client.responses.delete(made.id);
  await assert.rejects(client.responses.retrieve(made.id), OpenAI.NotFoundError);
});

test("the stream helper gives the final response", async () => {
  const stream = client.responses.stream({ model, input: japan, max_output_tokens: 40 });
  let text = "";
  stream.on("response.output_text.delta", (event) => (text += event.delta));
  assert.equal((await stream.finalResponse()).output_text, text);
});

test("a response is parsed by a zod schema", async () => {
  const answer = await client.responses.parse({
    model,
    input: askPerson,
    max_output_tokens: 100,
    temperature: 0,
    text: { format: zodTextFormat(Person, "person") },
  });
  assert.ok(Person.parse(answer.output_parsed));
});

test("models are listed page by page", async () => {
  const ids = [];
  for await (const one of client.models.list()) ids.push(one.id);
  assert.ok(ids.includes(model));
});

test("embeddings come in base64 and are numbers", { skip: !embeddingModel }, async () => {
  const input = ["one", "two"];
  const packed = await client.embeddings.create({ model: embeddingModel, input });
  const plain = await client.embeddings.create({
    model: embeddingModel,
    input,
    encoding_format: "float",
  });
  assert.equal(packed.data.length, 2);
  packed.data[1].embedding.forEach((value, place) =>
    assert.ok(Math.abs(value - plain.data[1].embedding[place]) < 1e-3),
  );
});

test("refusals are the errors their statuses mean", async () => {
  await assert.rejects(
    client.chat.completions.create(ask(japan, { model: "no-such-model" })),
    (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
  );
  await assert.rejects(
    client.chat.completions.create(ask(japan, { temperature: 3 })),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature",
  );
  await assert.rejects(
    client.withOptions({ apiKey: "wrong" }).models.list(),
    OpenAI.AuthenticationError,
  );
});
