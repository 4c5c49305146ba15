// The server under test, as `python -m tests.conformance` names it in the environment, and shapes
// that even a model of 135 million parameters can fill.
import { z } from "zod";

const { CONFORMANCE_URL: root, CONFORMANCE_API_KEY: apiKey } = process.env;

export const baseURL = `${root}/v1`;
export const model = process.env.CONFORMANCE_MODEL;
export const embeddingModel = process.env.CONFORMANCE_EMBEDDING_MODEL;
export { apiKey };

export const japan = "What is the capital of Japan?";
export const askPerson = "Describe a person as JSON: Ann is 30 years old and likes green.";
export const askWeather = "What is the weather in Paris?";

export const Person = z.object({
  name: z.string().max(16),
  age: z.number().int().min(0).max(150),
  favourite: z.enum(["red", "green", "blue"]),
});

export const WeatherInput = z.object({
  city: z.enum(["Paris", "Tokyo"]),
  days: z.union([z.literal(1), z.literal(2)]),
});
