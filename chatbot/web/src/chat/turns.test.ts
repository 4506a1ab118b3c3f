import { describe, expect, it } from "vitest";
import type { Image, Message, TurnEvent } from "../api";
import { chatReducer, EMPTY, type ChatState } from "./turns";

const conversation = { id: "c", title: "draw a fox", created_at: "", updated_at: "" };
const message = (id: number, role: Message["role"], content: string): Message => ({
  id, role, content, status: "complete", error: null, tool_calls: [], usage: null, created_at: "", images: [],
});
const image: Image = { id: "p", url: "/p", conversation_id: "c", prompt: "a fox", seed: 7, parameters: {} };

const after = (state: ChatState, ...events: TurnEvent[]) =>
  events.reduce((seen, event) => chatReducer(seen, { type: "event", event }), state);

const asked = chatReducer(EMPTY, { type: "asked", content: "draw a fox" });
const begun = after(asked, { event: "start", data: { conversation, message: message(1, "user", "draw a fox") } });

describe("a turn", () => {
  it("shows the question at once and takes the stored one when it is there", () => {
    expect(asked.messages.map((each) => each.id)).toEqual([-1]);
    expect(begun.messages).toEqual([message(1, "user", "draw a fox")]);
    expect(begun.id).toBe("c");
  });

  it("grows an image: a preview stays until the next one, and the image comes last", () => {
    const generating = after(
      begun,
      { event: "tool_call", data: { id: "t", tool: "generate_image", arguments: { prompt: "a fox" } } },
      { event: "progress", data: { id: "t", progress: 4, total: 28, preview: "data:," } },
      { event: "progress", data: { id: "t", progress: 5, total: 28, preview: null } },
    );
    expect(generating.answering?.generations[0]).toMatchObject({ prompt: "a fox", progress: 5, preview: "data:,", images: [] });
    expect(after(generating, { event: "image", data: { id: "t", image } }).answering?.generations[0]?.images).toEqual([image]);
  });

  it("joins tokens and ends with the stored answer", () => {
    const told = after(begun, { event: "token", data: { text: "Here " } }, { event: "token", data: { text: "it is" } });
    expect(told.answering?.text).toBe("Here it is");
    const done = after(told, { event: "done", data: { conversation, message: message(2, "assistant", "Here it is") } });
    expect(done.answering).toBeNull();
    expect(done.messages.map((each) => each.id)).toEqual([1, 2]);
  });

  it("keeps what was said when it is stopped, and the reason when it failed", () => {
    const told = after(begun, { event: "token", data: { text: "Once" } });
    expect(chatReducer(told, { type: "ended" }).messages.at(-1)).toMatchObject({ content: "Once", status: "stopped" });
    const failed = after(told, { event: "error", data: { code: "EngineUnavailable", message: "away", retryable: true } });
    expect(chatReducer(failed, { type: "ended" }).messages.at(-1)).toMatchObject({ status: "failed", error: { message: "away" } });
  });

  it("makes room for an edited message", () => {
    const done = after(begun, { event: "done", data: { conversation, message: message(2, "assistant", "x") } });
    const edited = chatReducer(done, { type: "asked", content: "draw a cat", replace: 1 });
    expect(edited.messages.map((each) => each.content)).toEqual(["draw a cat"]);
  });
});
