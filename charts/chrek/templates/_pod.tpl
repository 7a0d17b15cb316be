{{/* What pods of several components have in common. */}}

{{- define "chrek.pod.pullSecrets" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Everything but the agent satisfies the Pod Security standard "restricted". */}}
{{- define "chrek.pod.restricted" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "chrek.container.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What the downward API knows. Call with the names wanted: (list "POD_NAME" …). */}}
{{- define "chrek.container.downward" -}}
{{- $fields := dict "NODE_NAME" "spec.nodeName" "POD_NAME" "metadata.name" "POD_NAMESPACE" "metadata.namespace" "POD_UID" "metadata.uid" -}}
{{- range . }}
- name: {{ . }}
  valueFrom:
    fieldRef:
      fieldPath: {{ get $fields . }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of pods that end by themselves: the proxy of a mesh would go on for ever,
and hold the network back at their start. Call with the user's, which count first. */}}
{{- define "chrek.pod.noMeshLabels" -}}
{{- toYaml (merge (dict) . (dict "sidecar.istio.io/inject" "false")) -}}
{{- end -}}
{{- define "chrek.pod.noMeshAnnotations" -}}
{{- toYaml (merge (dict) . (dict "linkerd.io/inject" "disabled")) -}}
{{- end -}}
