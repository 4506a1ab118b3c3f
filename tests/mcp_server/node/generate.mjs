// Generates one image with an official TypeScript client and cancels another; prints what happened as JSON.
// Usage: node generate.mjs URL (v1|v2) PROMPT SEED
const [url, version, prompt, seed] = process.argv.slice(2);
const packages = {
  v1: ["@modelcontextprotocol/sdk/client/index.js", "@modelcontextprotocol/sdk/client/streamableHttp.js"],
  v2: ["@modelcontextprotocol/client", "@modelcontextprotocol/client"],
};
const [{ Client }, { StreamableHTTPClientTransport }] = await Promise.all(packages[version].map((name) => import(name)));

const options = version === "v2" ? { versionNegotiation: { mode: "auto" } } : {};
const client = new Client({ name: "aquatint-tests", version: "1.0.0" }, options);
const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);

function call(fields, options) {
  const params = { name: "generate_image", arguments: fields };
  return version === "v1" ? client.callTool(params, undefined, options) : client.callTool(params, options);
}

const progress = [];
const generated = await call({ prompt, seed: Number(seed) }, { onprogress: (event) => progress.push(event) });

const abort = new AbortController();
let cancelledAt = 0;
let outcome = "finished";
try {
  await call(
    { prompt: "a long one", num_inference_steps: 150, num_images: 4 },
    {
      signal: abort.signal,
      onprogress: (event) => {
        cancelledAt = event.progress;
        if (event.progress >= 3) abort.abort("enough");
      },
    },
  );
} catch (error) {
  outcome = String(error);
}

const refused = await call({ prompt: "x", width: 7 }, {});
console.log(
  JSON.stringify({
    protocol: client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion,
    tools: (await client.listTools()).tools.map((tool) => tool.name),
    progress,
    generated,
    cancelledAt,
    outcome,
    refused,
  }),
);
await client.close();
