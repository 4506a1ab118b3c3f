import { Alert, Button, EmptyState, EmptyStateBody, SearchInput, Title } from "@patternfly/react-core";
import { useEffect, useState } from "react";
import { listImages, type Image } from "./api";

interface GalleryProps {
  onView: (image: Image) => void;
  /** Changes when the list must be loaded again. */
  version: number;
}

/** All images of all conversations, newest first. */
export function Gallery({ onView, version }: GalleryProps) {
  const [words, setWords] = useState("");
  const [images, setImages] = useState<Image[] | null>(null);
  const [cursor, setCursor] = useState<number | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const [attempts, setAttempts] = useState(0);

  useEffect(() => {
    let left = false;
    listImages(words).then(
      (page) => {
        if (left) return;
        setImages(page.images);
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
    const page = await listImages(words, cursor ?? undefined);
    setImages((before) => [...(before ?? []), ...page.images]);
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
      {images?.length === 0 && (
        <EmptyState titleText={words ? "Nothing found" : "No pictures yet"} headingLevel="h2">
          <EmptyStateBody>{words ? "Try other words of the prompt." : "Every picture you ask for is kept here."}</EmptyStateBody>
        </EmptyState>
      )}
      <ul className="gallery-images">
        {images?.map((image) => (
          <li key={image.id}>
            <button type="button" className="thumbnail" onClick={() => onView(image)}>
              <img src={image.url} alt={image.prompt} loading="lazy" />
              <span>{image.prompt}</span>
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
