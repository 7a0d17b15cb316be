{{/* Annotations of a hook resource. Call with (list "pre-install,…" weight). Weights are distinct
because helm orders equal ones by name. Nothing is deleted after a failure: it is the evidence. */}}
{{- define "chrek.hook.annotations" -}}
helm.sh/hook: {{ index . 0 }}
helm.sh/hook-weight: {{ index . 1 | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{- define "chrek.hook.before" -}}pre-install,pre-upgrade,pre-rollback{{- end -}}
{{- define "chrek.hook.after" -}}post-install,post-upgrade,post-rollback{{- end -}}
{{- define "chrek.hook.upgrade" -}}pre-upgrade,pre-rollback{{- end -}}
{{- define "chrek.hook.always" -}}{{ include "chrek.hook.before" . }},{{ include "chrek.hook.after" . }},pre-delete{{- end -}}

{{/* A hook Job. Call with a dict: root, name, events, program, deadline; weight if it is not 0, crds if it
applies them, log for when helm shows what it said, account if it has one of its own (and a ConfigMap of
that name), downward for what it wants to know of its pod. */}}
{{- define "chrek.hook.job" -}}
{{- $hook := . -}}
{{- with .root -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "chrek.fullname" . }}-{{ $hook.name }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "chrek.labels" (list . "hooks") | nindent 4 }}
  annotations:
    {{- include "chrek.hook.annotations" (list $hook.events ($hook.weight | default 0)) | nindent 4 }}
    helm.sh/hook-output-log-policy: {{ $hook.log | default "hook-failed" }}
spec:
  backoffLimit: 0
  activeDeadlineSeconds: {{ $hook.deadline }}
  ttlSecondsAfterFinished: 86400
  template:
    metadata:
      labels:
        {{- include "chrek.selectorLabels" (list . "hooks") | nindent 8 }}
        {{- include "chrek.pod.noMeshLabels" .Values.hooks.podLabels | nindent 8 }}
      annotations:
        {{- include "chrek.pod.noMeshAnnotations" .Values.hooks.podAnnotations | nindent 8 }}
    spec:
      restartPolicy: Never
      serviceAccountName: {{ $hook.account | default (include "chrek.hooks.name" .) }}
      {{- with include "chrek.pod.pullSecrets" . }}
      {{- . | nindent 6 }}
      {{- end }}
      securityContext:
        {{- include "chrek.pod.restricted" . | nindent 8 }}
      {{- with .Values.hooks.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.hooks.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ $hook.name }}
          image: {{ include "chrek.image" (list . .Values.image) }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          command: [python3, /opt/chrek/hooks/{{ $hook.program }}]
          securityContext:
            {{- include "chrek.container.restricted" . | nindent 12 }}
          terminationMessagePolicy: FallbackToLogsOnError
          {{- with $hook.downward }}
          env:
            {{- include "chrek.container.downward" . | trim | nindent 12 }}
          {{- end }}
          resources:
            {{- toYaml .Values.hooks.resources | nindent 12 }}
          volumeMounts:
            - name: config
              mountPath: /etc/chrek
              readOnly: true
            {{- if $hook.crds }}
            - name: crds
              mountPath: /etc/chrek-crds
              readOnly: true
            {{- end }}
      volumes:
        - name: config
          configMap:
            name: {{ $hook.account | default (include "chrek.hooks.name" .) }}
        {{- if $hook.crds }}
        - name: crds
          configMap:
            name: {{ include "chrek.hooks.name" . }}-crds
        {{- end }}
{{- end -}}
{{- end -}}
