{{/* The Job that deletes artifacts. The operator, which has no access to the store, fills in name,
arguments and the label nvidia.com/chrek-deletion. It may wait for a restore and for another
deletion; the rest of its deadline is for slow file systems. */}}
{{- define "chrek.deletion.job" -}}
apiVersion: batch/v1
kind: Job
metadata:
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "chrek.labels" (list . "deletion") | nindent 4 }}
spec:
  backoffLimit: 2
  activeDeadlineSeconds: {{ add .Values.agent.restoreTimeoutSeconds 1800 }}
  ttlSecondsAfterFinished: 3600
  template:
    metadata:
      labels:
        {{- include "chrek.selectorLabels" (list . "deletion") | nindent 8 }}
    spec:
      restartPolicy: Never
      # It holds the Lease that keeps readers away, as the agents mark it.
      serviceAccountName: {{ include "chrek.agent.name" . }}
      automountServiceAccountToken: true
      {{- with include "chrek.pod.pullSecrets" . }}
      {{- . | nindent 6 }}
      {{- end }}
      # Where agents run the store can be reached.
      {{- with include "chrek.agent.scheduling" . | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      containers:
        - name: prune
          image: {{ include "chrek.image" (list . .Values.image) }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          command: [chrek, prune, --config, /etc/chrek/agent.yaml]
          securityContext:
            # The owner of the store's files, and nothing more: none of root's capabilities.
            runAsUser: 0
            runAsGroup: 0
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
            seccompProfile:
              type: RuntimeDefault
          env:
            {{- include "chrek.container.downward" (list "POD_NAME" "POD_NAMESPACE") | trim | nindent 12 }}
            {{- with .Values.agent.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          # What it said last; the operator tells it.
          terminationMessagePolicy: FallbackToLogsOnError
          resources:
            {{- toYaml .Values.hooks.resources | nindent 12 }}
          volumeMounts:
            - name: config
              mountPath: /etc/chrek
              readOnly: true
            {{- with include "chrek.store.mounts" . | trim }}
            {{- . | nindent 12 }}
            {{- end }}
      volumes:
        - name: config
          configMap:
            name: {{ include "chrek.config.name" . }}
            items:
              - {key: agent.yaml, path: agent.yaml}
        {{- with include "chrek.store.volumes" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
{{- end -}}
