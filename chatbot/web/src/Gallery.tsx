import { Alert, Button, EmptyState, EmptyStateBody, SearchInput, Title } from "@patternfly/react-core";
import { useEffect, useState } from "react";
import { listPictures, type Picture } from "./api";

interface GalleryProps {
  onView: (picture: Picture) => void;
  /** Changes when the pictures are to be read again. */
  version: number;
}

/** All pictures of all conversations, newest first. */
export function Gallery({ onView, version }: GalleryProps) {
  const [words, setWords] = useState("");
  const [pictures, setPictures] = useState<Picture[] | null>(null);
  const [cursor, setCursor] = useState<number | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const [attempts, setAttempts] = useState(0);

  useEffect(() => {
    let left = false;
    listPictures(words).then(
      (page) => {
        if (left) return;
        setPictures(page.images);
        setCursor(page.next_cursor);
        setProblem(null);
      },
      (error: Error) => !left && setProblem(error.message),
    );
    return () => {
      left = true;
    };
  }, [words, attempts, version]);

  const more = async () => {
    const page = await listPictures(words, cursor ?? undefined);
    setPictures((before) => [...(before ?? []), ...page.images]);
    setCursor(page.next_cursor);
  };

  return (
    <section className="gallery" aria-labelledby="gallery-title">
      <Title headingLevel="h1" id="gallery-title">
        Gallery
      </Title>
      <SearchInput aria-label="Search pictures" placeholder="Words of the prompt" value={words} onChange={(_, value) => setWords(value)} onClear={() => setWords("")} />
      {problem && (
        <Alert variant="danger" isInline title={problem} actionLinks={<Button variant="link" isInline onClick={() => setAttempts(attempts + 1)}>Try again</Button>} />
      )}
      {pictures?.length === 0 && (
        <EmptyState titleText={words ? "Nothing found" : "No pictures yet"} headingLevel="h2">
          <EmptyStateBody>{words ? "Try other words of the prompt." : "Everything you draw is collected here."}</EmptyStateBody>
        </EmptyState>
      )}
      <ul className="pictures">
        {pictures?.map((picture) => (
          <li key={picture.id}>
            <button type="button" className="thumbnail" onClick={() => onView(picture)}>
              <img src={picture.url} alt={picture.prompt} loading="lazy" />
              <span>{picture.prompt}</span>
            </button>
          </li>
        ))}
      </ul>
      {cursor !== null && (
        <Button variant="secondary" onClick={() => void more().catch((error: Error) => setProblem(error.message))}>
          Show more
        </Button>
      )}
    </section>
  );
}
