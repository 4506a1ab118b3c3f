import { Button, ClipboardCopy, DescriptionList, DescriptionListDescription, DescriptionListGroup, DescriptionListTerm, Modal, ModalBody, ModalFooter, ModalHeader } from "@patternfly/react-core";
import { CloneIcon, DownloadIcon, SyncAltIcon, TrashIcon } from "@patternfly/react-icons";
import { useState } from "react";
import type { Picture } from "./api";
import { downloadPicture } from "./download";

interface ViewerProps {
  picture: Picture;
  onClose: () => void;
  /** Keep the seed and write another prompt. */
  onChange: (picture: Picture) => void;
  /** Keep the prompt and take other seeds. */
  onVary: (picture: Picture) => void;
  onDelete: (picture: Picture) => void;
}

export function ImageViewer({ picture, onClose, onChange, onVary, onDelete }: ViewerProps) {
  const [isSure, setSure] = useState(false);
  const { width, height, num_inference_steps, guidance_scale, negative_prompt, model } = picture.parameters;
  const facts: [string, string | number | undefined][] = [
    ["Size", width && height ? `${width} × ${height}` : undefined],
    ["Steps", num_inference_steps],
    ["Guidance", guidance_scale],
    ["Negative prompt", negative_prompt || undefined],
    ["Model", model],
  ];
  return (
    <Modal isOpen variant="medium" onClose={onClose} aria-labelledby="viewer-title">
      <ModalHeader title={picture.prompt} labelId="viewer-title" />
      <ModalBody className="viewer">
        <img src={picture.url} alt={picture.prompt} />
        <div>
          <Labelled name="Prompt">
            <ClipboardCopy isReadOnly hoverTip="Copy" clickTip="Copied" textAriaLabel="Prompt">
              {picture.prompt}
            </ClipboardCopy>
          </Labelled>
          {picture.seed !== null && (
            <Labelled name="Seed">
              <ClipboardCopy isReadOnly hoverTip="Copy" clickTip="Copied" textAriaLabel="Seed">
                {String(picture.seed)}
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
        <Button icon={<DownloadIcon />} onClick={() => void downloadPicture(picture.url, `${picture.id}.png`)}>
          Download
        </Button>
        <Button variant="secondary" icon={<CloneIcon />} onClick={() => onVary(picture)}>
          Variations
        </Button>
        <Button variant="secondary" icon={<SyncAltIcon />} isDisabled={picture.seed === null} onClick={() => onChange(picture)}>
          Same seed, change prompt
        </Button>
        <Button variant="link" isDanger icon={<TrashIcon />} onClick={() => (isSure ? onDelete(picture) : setSure(true))}>
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
