// Loads an OpenAI-compatible server with k6: always the same number of requests in flight.
//
//   k6 run bench/k6/chat.js
//   k6 run -e BASE_URL=http://127.0.0.1:8000/v1 -e CONCURRENCY=8 -e REQUESTS=64 bench/k6/chat.js
//   k6 run -e TTFT_P95_MS=500 -e TPOT_P95_MS=60 bench/k6/chat.js     (exit code 99 where missed)
//
// Settings, all from the environment (-e NAME=VALUE):
//   BASE_URL       where the API is, with its /v1     (http://127.0.0.1:8000/v1)
//   MODEL          its name; default: the first that the server lists
//   OPENAI_API_KEY sent as a bearer token, where there is one
//   CONCURRENCY    requests in flight, always         (8)
//   REQUESTS       requests in all                    (4 x CONCURRENCY)
//   INPUT_TOKENS   words of a random prompt: about so many tokens            (128)
//   OUTPUT_TOKENS  tokens of each answer              (128)
//   NATURAL_END    set: let the model end its answers; else min_tokens and ignore_eos are sent,
//                  which vLLM and the gateway know and other APIs may refuse
//   PROMPTS        a file, one JSON object a line: {"messages": [...]} or {"prompt": "..."}
//   TTFT_P95_MS, TPOT_P95_MS, E2EL_P95_MS             thresholds; without them only failures count
//
// k6 has no event streams of its own: it reads the whole body and then hands it over. It does note
// when the first byte of an answer came (`timings.waiting`). The gateway sends its headers together
// with the first token, so that this is TTFT there, and the rest of the body (`timings.receiving`)
// gives TPOT. A server that sends headers before it has a token makes TTFT look shorter and TPOT
// longer than they are; measure such a one with the extension xk6-sse, or another tool.

import http from 'k6/http';
import exec from 'k6/execution';
import { check, fail } from 'k6';
import { Counter, Rate, Trend } from 'k6/metrics';
import { SharedArray } from 'k6/data';

const number = (name, otherwise) => Number(__ENV[name] || otherwise);

const BASE_URL = (__ENV.BASE_URL || 'http://127.0.0.1:8000/v1').replace(/\/+$/, '');
const CONCURRENCY = number('CONCURRENCY', 8);
const REQUESTS = number('REQUESTS', 4 * CONCURRENCY);
const INPUT_TOKENS = number('INPUT_TOKENS', 128);
const OUTPUT_TOKENS = number('OUTPUT_TOKENS', 128);
const WORDS = (
  'able about above act after again air all animal answer apple area ask back ball base bear best ' +
  'bird black blue boat body book bring build call can care catch change clear close cold come'
).split(' ');

const ttft = new Trend('llm_ttft', true);
const tpot = new Trend('llm_tpot', true);
const e2el = new Trend('llm_e2el', true);
const promptTokens = new Counter('llm_prompt_tokens');
const completionTokens = new Counter('llm_completion_tokens');
const failures = new Rate('llm_failed');

// Read once, whatever the number of virtual users.
const prompts = new SharedArray('prompts', () =>
  __ENV.PROMPTS
    ? open(__ENV.PROMPTS)
        .split('\n')
        .filter((line) => line.trim())
        .map((line) => JSON.parse(line))
    : [],
);

function thresholds() {
  const found = { llm_failed: ['rate==0'] };
  for (const name of ['ttft', 'tpot', 'e2el']) {
    const limit = __ENV[`${name.toUpperCase()}_P95_MS`];
    if (limit) found[`llm_${name}`] = [`p(95)<${limit}`];
  }
  return found;
}

export const options = {
  scenarios: {
    closed_loop: {
      executor: 'shared-iterations',
      vus: CONCURRENCY,
      iterations: REQUESTS,
      maxDuration: '24h',
    },
  },
  thresholds: thresholds(),
  summaryTrendStats: ['avg', 'min', 'med', 'p(90)', 'p(95)', 'p(99)', 'max'],
  // Virtual users keep their connections from one request to the next.
  noVUConnectionReuse: false,
};

function headers() {
  const found = { 'Content-Type': 'application/json', 'Accept-Encoding': 'identity' };
  if (__ENV.OPENAI_API_KEY) found.Authorization = `Bearer ${__ENV.OPENAI_API_KEY}`;
  return found;
}

export function setup() {
  if (__ENV.MODEL) return { model: __ENV.MODEL };
  const answer = http.get(`${BASE_URL}/models`, { headers: headers() });
  const listed = answer.status === 200 ? answer.json('data') : null;
  if (!listed || !listed.length) {
    fail(`${BASE_URL}/models: HTTP ${answer.status}, no list of models; set BASE_URL and MODEL`);
  }
  return { model: listed[0].id };
}

function randomPrompt() {
  const words = [];
  for (let count = 0; count < INPUT_TOKENS; count += 1) {
    words.push(WORDS[Math.floor(Math.random() * WORDS.length)]);
  }
  return { messages: [{ role: 'user', content: words.join(' ') }] };
}

// What the stream said at its end. A stream that broke, or told of an error, has no usage here.
function readStream(body) {
  const events = body
    .split('\n')
    .filter((line) => line.startsWith('data:'))
    .map((line) => line.slice(5).trim());
  if (events[events.length - 1] !== '[DONE]') return { error: 'the stream ended without [DONE]' };
  // Usage comes last; the chunks before it need no parsing.
  const last = JSON.parse(events[events.length - 2] || '{}');
  return last.usage ? { usage: last.usage } : { error: 'the answer states no usage' };
}

export default function completion(data) {
  const prompt = prompts.length
    ? prompts[exec.scenario.iterationInTest % prompts.length]
    : randomPrompt();
  const body = Object.assign({ model: data.model }, prompt, {
    max_tokens: OUTPUT_TOKENS,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
  });
  if (!__ENV.NATURAL_END) Object.assign(body, { min_tokens: OUTPUT_TOKENS, ignore_eos: true });
  const path = prompt.messages ? 'chat/completions' : 'completions';
  const response = http.post(`${BASE_URL}/${path}`, JSON.stringify(body), {
    headers: headers(),
    timeout: '600s',
    tags: { name: path },
  });
  const found =
    response.status === 200
      ? readStream(response.body)
      : { error: `HTTP ${response.status}: ${response.error || response.body}` };
  failures.add(Boolean(found.error));
  check(found, { 'a whole answer': (one) => !one.error });
  if (found.error) {
    console.error(found.error);
    return;
  }
  // From the request's first byte, without the wait for a connection, as k6 counts.
  const { sending, waiting, receiving } = response.timings;
  ttft.add(sending + waiting);
  e2el.add(sending + waiting + receiving);
  if (found.usage.completion_tokens > 1) {
    tpot.add(receiving / (found.usage.completion_tokens - 1));
  }
  promptTokens.add(found.usage.prompt_tokens);
  completionTokens.add(found.usage.completion_tokens);
}
