import {
  Alert,
  Button,
  Dropdown,
  DropdownItem,
  DropdownList,
  Form,
  MenuToggle,
  Modal,
  ModalBody,
  ModalFooter,
  ModalHeader,
  SearchInput,
  TextInput,
} from "@patternfly/react-core";
import { EllipsisVIcon, PlusIcon } from "@patternfly/react-icons";
import { useEffect, useState } from "react";
import {
  deleteConversation,
  exportConversation,
  listConversations,
  renameConversation,
  type ConversationSummary,
} from "./api";
import { download } from "./download";

interface SidebarProps {
  current: string | null;
  /** Changes when the list must be loaded again. */
  version: number;
  go: (hash: string) => void;
  onDeleted: (id: string) => void;
}

export function Sidebar({ current, version, go, onDeleted }: SidebarProps) {
  const [words, setWords] = useState("");
  const [conversations, setConversations] = useState<ConversationSummary[]>([]);
  const [changes, setChanges] = useState(0);
  const [problem, setProblem] = useState<string | null>(null);
  const [renaming, setRenaming] = useState<ConversationSummary | null>(null);
  const [deleting, setDeleting] = useState<ConversationSummary | null>(null);

  useEffect(() => {
    let left = false;
    listConversations(words).then(
      (found) => !left && setConversations(found),
      () => undefined, // The page shows elsewhere that the server is away.
    );
    return () => {
      left = true;
    };
  }, [words, version, changes]);

  const attempt = async (work: Promise<unknown>) => {
    try {
      await work;
      setProblem(null);
      setChanges((count) => count + 1);
    } catch (error) {
      setProblem((error as Error).message);
    }
  };
  const save = async (id: string, format: "json" | "markdown") =>
    download(await exportConversation(id, format), `conversation-${id}.${format === "json" ? "json" : "md"}`);

  return (
    <nav aria-label="Conversations" className="sidebar">
      <Button icon={<PlusIcon />} onClick={() => go("#/")} isBlock>
        New conversation
      </Button>
      <SearchInput
        aria-label="Search conversations"
        placeholder="Search"
        value={words}
        onChange={(_, value) => setWords(value)}
        onClear={() => setWords("")}
      />
      {problem && <Alert variant="danger" isInline isPlain title={problem} />}
      <ul className="conversations">
        {conversations.map((each) => (
          <li key={each.id} className={each.id === current ? "is-current" : undefined}>
            <a href={`#/c/${each.id}`} aria-current={each.id === current ? "page" : undefined} title={each.title}>
              {each.title}
            </a>
            <ConversationMenu
              title={each.title}
              onRename={() => setRenaming(each)}
              onExport={(format) => void attempt(save(each.id, format))}
              onDelete={() => setDeleting(each)}
            />
          </li>
        ))}
      </ul>
      {renaming && (
        <RenameModal
          conversation={renaming}
          onClose={() => setRenaming(null)}
          onRename={(title) => {
            setRenaming(null);
            void attempt(renameConversation(renaming.id, title));
          }}
        />
      )}
      {deleting && (
        <Modal isOpen variant="small" onClose={() => setDeleting(null)} aria-labelledby="delete-title">
          <ModalHeader title="Delete this conversation?" labelId="delete-title" titleIconVariant="warning" />
          <ModalBody>“{deleting.title}” and its pictures are deleted for good.</ModalBody>
          <ModalFooter>
            <Button
              variant="danger"
              onClick={() => {
                setDeleting(null);
                void attempt(deleteConversation(deleting.id).then(() => onDeleted(deleting.id)));
              }}
            >
              Delete
            </Button>
            <Button variant="link" onClick={() => setDeleting(null)}>
              Cancel
            </Button>
          </ModalFooter>
        </Modal>
      )}
    </nav>
  );
}

interface MenuProps {
  title: string;
  onRename: () => void;
  onExport: (format: "json" | "markdown") => void;
  onDelete: () => void;
}

function ConversationMenu({ title, onRename, onExport, onDelete }: MenuProps) {
  const [isOpen, setOpen] = useState(false);
  return (
    <Dropdown
      isOpen={isOpen}
      onOpenChange={setOpen}
      onSelect={() => setOpen(false)}
      popperProps={{ position: "right" }}
      toggle={(ref) => (
        <MenuToggle
          ref={ref}
          variant="plain"
          icon={<EllipsisVIcon />}
          aria-label={`Actions for ${title}`}
          isExpanded={isOpen}
          onClick={() => setOpen(!isOpen)}
        />
      )}
    >
      <DropdownList>
        <DropdownItem onClick={onRename}>Rename</DropdownItem>
        <DropdownItem onClick={() => onExport("markdown")}>Export as Markdown</DropdownItem>
        <DropdownItem onClick={() => onExport("json")}>Export as JSON</DropdownItem>
        <DropdownItem isDanger onClick={onDelete}>
          Delete
        </DropdownItem>
      </DropdownList>
    </Dropdown>
  );
}

interface RenameProps {
  conversation: ConversationSummary;
  onClose: () => void;
  onRename: (title: string) => void;
}

function RenameModal({ conversation, onClose, onRename }: RenameProps) {
  const [title, setTitle] = useState(conversation.title);
  const submit = (event: React.FormEvent) => {
    event.preventDefault();
    if (title.trim()) onRename(title);
  };
  return (
    <Modal isOpen variant="small" onClose={onClose} aria-labelledby="rename-title">
      <ModalHeader title="Rename" labelId="rename-title" />
      <ModalBody>
        <Form onSubmit={submit} id="rename">
          <TextInput aria-label="Title" value={title} maxLength={80} autoFocus onChange={(_, value) => setTitle(value)} />
        </Form>
      </ModalBody>
      <ModalFooter>
        <Button type="submit" form="rename" isDisabled={!title.trim()}>
          Rename
        </Button>
        <Button variant="link" onClick={onClose}>
          Cancel
        </Button>
      </ModalFooter>
    </Modal>
  );
}
