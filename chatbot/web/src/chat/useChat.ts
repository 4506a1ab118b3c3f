import { useCallback, useEffect, useReducer, useRef } from "react";
import { ApiError, getConversation, streamTurn, type Failure, type ImageSettings } from "../api";
import { chatReducer, EMPTY, type ChatState } from "./turns";

export interface Chat {
  state: ChatState;
  /** Send a message; `replace` is the id of an earlier message that it replaces. */
  send: (content: string, image: ImageSettings, replace?: number) => Promise<void>;
  stop: () => void;
  /** Show a stored conversation, or a new one for `null`. */
  open: (id: string | null) => Promise<void>;
}

const toFailure = (error: unknown): Failure =>
  error instanceof ApiError
    ? { code: error.code, message: error.message, retryable: error.code !== "InvalidRequest" }
    : { code: "Internal", message: String(error), retryable: true };

/** One conversation: its messages, and the turn that may be running. */
export function useChat(onChange: (id: string) => void): Chat {
  const [state, dispatch] = useReducer(chatReducer, EMPTY);
  const running = useRef<AbortController | null>(null);
  const id = useRef<string | null>(null);

  const open = useCallback(async (wanted: string | null) => {
    running.current?.abort();
    id.current = wanted;
    const conversation = wanted === null ? null : await getConversation(wanted);
    // Another conversation may have been chosen in the meantime.
    if (id.current === wanted) dispatch({ type: "open", conversation });
  }, []);

  const send = useCallback(
    async (content: string, image: ImageSettings, replace?: number) => {
      const controller = new AbortController();
      running.current?.abort();
      running.current = controller;
      dispatch({ type: "asked", content, replace });
      const isCurrent = () => running.current === controller;
      try {
        // Negative ids are the page's own, for messages that were never stored.
        const replaced = replace !== undefined && replace > 0 ? replace : undefined;
        const turn = { content, image, conversation_id: id.current ?? undefined, replace_message_id: replaced };
        for await (const event of streamTurn(turn, controller.signal)) {
          if (!isCurrent()) return;
          dispatch({ type: "event", event });
          if (event.event === "start") {
            id.current = event.data.conversation.id;
            onChange(event.data.conversation.id);
          }
        }
      } catch (error) {
        if (isCurrent() && !controller.signal.aborted) dispatch({ type: "failed", failure: toFailure(error) });
      } finally {
        if (isCurrent()) {
          running.current = null;
          dispatch({ type: "ended" });
          if (id.current) onChange(id.current);
        }
      }
    },
    [onChange],
  );

  const stop = useCallback(() => running.current?.abort(), []);
  useEffect(() => stop, [stop]);
  return { state, send, stop, open };
}
