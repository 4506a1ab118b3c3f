import { Title } from "@patternfly/react-core";
import { useEffect, useRef } from "react";
import type { Image, ImageSettings, Status } from "../api";
import { AnswerInProgress } from "./AnswerInProgress";
import { Composer, type Draft } from "./Composer";
import { MessageView } from "./MessageView";
import type { ChatState } from "./turns";

const EXAMPLES = [
  "draw a fox on a blue background",
  "a noto emoji of a penguin on a pink background",
  "What can you do?",
];

interface ChatViewProps {
  state: ChatState;
  status: Status | null;
  online: boolean;
  settings: ImageSettings;
  draft: Draft;
  onDraft: (draft: Draft) => void;
  onSend: (content: string, image: ImageSettings, replace?: number) => Promise<void>;
  onStop: () => void;
  onView: (image: Image) => void;
}

export function ChatView({ state, status, online, settings, draft, onDraft, onSend, onStop, onView }: ChatViewProps) {
  const { messages, answering } = state;
  const end = useRef<HTMLDivElement>(null);
  useEffect(() => {
    // Newer browsers return a promise, which is no clean-up function.
    void end.current?.scrollIntoView({ block: "end" });
  }, [messages.length, answering]);

  const say = (content: string, replace?: number) => {
    void onSend(content, { ...settings, ...draft.once }, replace);
    if (replace === undefined) onDraft({ text: "", once: {} });
  };
  const questionBefore = (index: number) => messages.slice(0, index).findLast((message) => message.role === "user");
  const retry = (index: number) => {
    const question = questionBefore(index);
    if (question) say(question.content, question.id);
  };

  return (
    <section className="chat" aria-label="Conversation">
      <div className="messages" role="log" aria-live="polite" aria-relevant="additions" tabIndex={0} aria-label="Messages">
        {messages.length === 0 && <Welcome onPick={say} />}
        {messages.map((message, index) => (
          <MessageView
            key={`${message.id}-${index}`}
            message={message}
            isBusy={answering !== null}
            onView={onView}
            onEdit={(content) => say(content, message.id)}
            onRetry={() => retry(index)}
          />
        ))}
        {answering && <AnswerInProgress answering={answering} onView={onView} />}
        <div ref={end} />
      </div>
      {status && !status.llm.ready && (
        <p className="hint" role="status">
          The language model is not ready yet ({status.llm.detail}). Pictures still work: begin with “draw” or /imagine.
        </p>
      )}
      {status && !status.drawing.ready && (
        <p className="hint" role="status">
          Pictures cannot be generated now: {status.drawing.detail}
        </p>
      )}
      <Composer draft={draft} isBusy={answering !== null} isOffline={!online} onDraft={onDraft} onSend={say} onStop={onStop} />
    </section>
  );
}

function Welcome({ onPick }: { onPick: (text: string) => void }) {
  return (
    <div className="welcome">
      <img src="/plate.svg" alt="" width="56" height="56" />
      <Title headingLevel="h1">Talk, and see it drawn</Title>
      <p>Say what you would like to see, or ask something. Pictures grow in front of you.</p>
      <ul>
        {EXAMPLES.map((example) => (
          <li key={example}>
            <button type="button" onClick={() => onPick(example)}>
              {example}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
