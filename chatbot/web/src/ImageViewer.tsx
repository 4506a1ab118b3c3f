import { Button, ClipboardCopy, DescriptionList, DescriptionListDescription, DescriptionListGroup, DescriptionListTerm, Modal, ModalBody, ModalFooter, ModalHeader } from "@patternfly/react-core";
import { CloneIcon, DownloadIcon, SyncAltIcon, TrashIcon } from "@patternfly/react-icons";
import { useState } from "react";
import type { Image } from "./api";
import { downloadImage } from "./download";
import { settingsOf } from "./parameters";

interface ViewerProps {
  image: Image;
  onClose: () => void;
  /** Keep the seed and edit the prompt. */
  onChange: (image: Image) => void;
  /** Keep the prompt and use other seeds. */
  onVary: (image: Image) => void;
  onDelete: (image: Image) => void;
}

export function ImageViewer({ image, onClose, onChange, onVary, onDelete }: ViewerProps) {
  const [isSure, setSure] = useState(false);
  const { width, height, num_inference_steps, guidance_scale, negative_prompt, model } = settingsOf(image);
  const facts: [string, string | number | null | undefined][] = [
    ["Size", width && height ? `${width} × ${height}` : undefined],
    ["Steps", num_inference_steps],
    ["Guidance", guidance_scale],
    ["Negative prompt", negative_prompt || undefined],
    ["Model", model],
  ];
  return (
    <Modal isOpen variant="medium" onClose={onClose} aria-labelledby="viewer-title">
      <ModalHeader title={image.prompt} labelId="viewer-title" />
      <ModalBody className="viewer">
        <img src={image.url} alt={image.prompt} />
        <div>
          <Labelled name="Prompt">
            <ClipboardCopy isReadOnly hoverTip="Copy" clickTip="Copied" textAriaLabel="Prompt">
              {image.prompt}
            </ClipboardCopy>
          </Labelled>
          {image.seed !== null && (
            <Labelled name="Seed">
              <ClipboardCopy isReadOnly hoverTip="Copy" clickTip="Copied" textAriaLabel="Seed">
                {String(image.seed)}
              </ClipboardCopy>
            </Labelled>
          )}
          <DescriptionList isHorizontal isCompact>
            {facts.map(
              ([name, value]) =>
                value !== undefined && (
                  <DescriptionListGroup key={name}>
                    <DescriptionListTerm>{name}</DescriptionListTerm>
                    <DescriptionListDescription>{value}</DescriptionListDescription>
                  </DescriptionListGroup>
                ),
            )}
          </DescriptionList>
        </div>
      </ModalBody>
      <ModalFooter>
        <Button icon={<DownloadIcon />} onClick={() => void downloadImage(image.url, `${image.id}.png`)}>
          Download
        </Button>
        <Button variant="secondary" icon={<CloneIcon />} onClick={() => onVary(image)}>
          Variations
        </Button>
        <Button variant="secondary" icon={<SyncAltIcon />} isDisabled={image.seed === null} onClick={() => onChange(image)}>
          Same seed, change prompt
        </Button>
        <Button variant="link" isDanger icon={<TrashIcon />} onClick={() => (isSure ? onDelete(image) : setSure(true))}>
          {isSure ? "Really delete" : "Delete"}
        </Button>
      </ModalFooter>
    </Modal>
  );
}

function Labelled({ name, children }: { name: string; children: React.ReactNode }) {
  return (
    <div className="labelled">
      <span>{name}</span>
      {children}
    </div>
  );
}
