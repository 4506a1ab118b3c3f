import { Button } from "@patternfly/react-core";
import { CopyIcon } from "@patternfly/react-icons";
import { useRef } from "react";
import ReactMarkdown, { type Components } from "react-markdown";
import rehypeHighlight from "rehype-highlight";
import remarkGfm from "remark-gfm";

const COMPONENTS: Components = {
  pre: CodeBlock,
  // The page never fetches an address that a model wrote.
  img: ({ alt }) => <em>{alt}</em>,
  a: ({ href, children }) => (
    <a href={href} target="_blank" rel="noreferrer noopener">
      {children}
    </a>
  ),
};

/** A language model's Markdown; raw HTML stays text. */
export function Markdown({ text }: { text: string }) {
  if (!text) return null;
  return (
    <div className="markdown">
      <ReactMarkdown remarkPlugins={[remarkGfm]} rehypePlugins={[[rehypeHighlight, { detect: false }]]} components={COMPONENTS}>
        {text}
      </ReactMarkdown>
    </div>
  );
}

function CodeBlock({ children }: { children?: React.ReactNode }) {
  const block = useRef<HTMLPreElement>(null);
  return (
    <div className="code">
      <pre ref={block} tabIndex={0}>
        {children}
      </pre>
      <Button
        variant="plain"
        size="sm"
        icon={<CopyIcon />}
        aria-label="Copy the code"
        onClick={() => void navigator.clipboard.writeText(block.current?.textContent ?? "")}
      />
    </div>
  );
}
