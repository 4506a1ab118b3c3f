import { ActionGroup, Alert, Button, Form, FormGroup, TextInput } from "@patternfly/react-core";
import { useState } from "react";
import { accessToken } from "./api";

/** Asks for the server's access token, which stays in this tab. */
export function TokenPrompt({ onToken }: { onToken: () => void }) {
  const [token, setToken] = useState("");
  const submit = (event: React.FormEvent) => {
    event.preventDefault();
    accessToken.set(token);
    onToken();
  };
  return (
    <Alert variant="info" isInline title="This server requires an access token.">
      <Form onSubmit={submit}>
        <FormGroup label="Access token" fieldId="token">
          <TextInput id="token" type="password" autoComplete="off" value={token} onChange={(_, value) => setToken(value)} />
        </FormGroup>
        <ActionGroup>
          <Button type="submit" isDisabled={!token}>
            Use it
          </Button>
        </ActionGroup>
      </Form>
    </Alert>
  );
}
