{{/* Each pod removes the release's directories from its node, then waits until the DaemonSet goes. The
hook adds when the order expires, and keeps pods off nodes whose agent has not ended. */}}
{{- define "chrek.cleanUp.daemonSet" -}}
{{- $paths := include "chrek.nodePaths" . | fromJsonArray -}}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {{ include "chrek.cleanUp.name" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "chrek.labels" (list . "clean-up") | nindent 4 }}
spec:
  selector:
    matchLabels:
      {{- include "chrek.selectorLabels" (list . "clean-up") | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "chrek.selectorLabels" (list . "clean-up") | nindent 8 }}
        {{- include "chrek.pod.noMeshLabels" .Values.hooks.podLabels | nindent 8 }}
      annotations:
        {{- include "chrek.pod.noMeshAnnotations" .Values.hooks.podAnnotations | nindent 8 }}
    spec:
      serviceAccountName: {{ include "chrek.postDelete.name" . }}
      # Nothing in it talks to the API server.
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- with include "chrek.pod.pullSecrets" . }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with .Values.agent.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with include "chrek.agent.scheduling" . | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      # What waits has nothing to finish.
      terminationGracePeriodSeconds: 1
      securityContext:
        seccompProfile:
          type: RuntimeDefault
      initContainers:
        - name: clean-up
          image: {{ include "chrek.image" (list . .Values.image) }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          command:
            - python3
            - -m
            - chrek.hooks.node_clean_up
            - --root=/node
            {{- range $paths }}
            - {{ . }}
            {{- end }}
          securityContext:
            # The owner of what agents leave, and nothing more: none of root's capabilities.
            runAsUser: 0
            runAsGroup: 0
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
            # With SELinux no other type may write to the node's own files; elsewhere it says nothing.
            seLinuxOptions:
              type: spc_t
          terminationMessagePolicy: FallbackToLogsOnError
          resources:
            {{- toYaml .Values.hooks.resources | nindent 12 }}
          volumeMounts:
            # The directories that the release's own are in, for it cannot remove what it mounts.
            {{- range $index, $path := $paths }}
            - name: node-{{ $index }}
              mountPath: /node{{ dir $path }}
            {{- end }}
      containers:
        - name: wait
          image: {{ include "chrek.image" (list . .Values.image) }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          command: [sleep, infinity]
          securityContext:
            runAsNonRoot: true
            runAsUser: 65532
            runAsGroup: 65532
            {{- include "chrek.container.restricted" . | nindent 12 }}
          resources:
            {{- toYaml .Values.hooks.resources | nindent 12 }}
      volumes:
        {{- range $index, $path := $paths }}
        - name: node-{{ $index }}
          hostPath:
            path: {{ dir $path }}
            # A node that never had an agent has no such directory, and its pod must end too.
            type: DirectoryOrCreate
        {{- end }}
{{- end -}}
