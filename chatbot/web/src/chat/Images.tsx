import type { Image } from "../api";

export function Images({ images, onView }: { images: Image[]; onView: (image: Image) => void }) {
  if (images.length === 0) return null;
  return (
    <div className="generated">
      {images.map((image) => (
        <button key={image.id} type="button" className="thumbnail" aria-label={`Look at ${image.prompt}`} onClick={() => onView(image)}>
          <img src={image.url} alt={image.prompt} />
        </button>
      ))}
    </div>
  );
}
