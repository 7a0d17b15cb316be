{{/* What checks are told about the release: names of objects, and wishes. */}}
{{- define "chrek.release.config" -}}
{{- $checkpoint := include "chrek.checkpoint" . | fromJson -}}
{{- $storage := $checkpoint.storage -}}
apiVersion: chrek.nvidia.com/v1alpha1
kind: ReleaseConfig
helmRelease: {{ .Release.Name }}
release: {{ include "chrek.release" . }}
namespace: {{ .Release.Namespace }}
watchNamespaces: {{ include "chrek.watchNamespaces" . }}
crds:
  {{- range $path, $_ := .Files.Glob "files/crds/*.yaml" }}
  - {{ ($.Files.Get $path | fromYaml).metadata.name }}
  {{- end }}
store:
  {{- if eq $storage.type "pvc" }}
  kind: Claim
  name: {{ include "chrek.claimName" . }}
  create: {{ eq (include "chrek.makesClaim" .) "true" }}
  storageClassName: {{ .Values.storage.pvc.storageClassName | quote }}
  accessModes: {{ .Values.storage.pvc.accessModes | toJson }}
  size: {{ .Values.storage.pvc.size | quote }}
  {{- else }}
  {{- $server := get $storage $storage.type }}
  kind: Server
  type: {{ $storage.type }}
  uri: {{ $server.uri | quote }}
  endpoint: {{ $server.endpoint | default "" | quote }}
  plainHttp: {{ $server.plainHttp }}
  credentialsSecret: {{ $server.credentialsSecretRef | quote }}
  caConfigMap: {{ $server.caBundle | quote }}
  keySecret: {{ $storage.encryption.keySecretRef | quote }}
  {{- end }}
agentName: {{ if include "chrek.agentEnabled" . }}{{ include "chrek.agent.name" . }}{{ else }}""{{ end }}
agentLabels:
  {{- include "chrek.selectorLabels" (list . "agent") | nindent 2 }}
operatorName: {{ if include "chrek.operatorEnabled" . }}{{ include "chrek.operator.name" . }}{{ else }}""{{ end }}
operatorLabels:
  {{- include "chrek.selectorLabels" (list . "operator") | nindent 2 }}
webhookName: {{ include "chrek.webhook.configurationName" . }}
testPodName: {{ if and .Values.tests.enabled (include "chrek.operatorEnabled" .) }}{{ include "chrek.test.podName" . }}{{ else }}""{{ end }}
identitiesName: {{ include "chrek.identities.name" . }}
identities: {{ $checkpoint.identities | toJson }}
timeoutSeconds: {{ .Values.hooks.timeoutSeconds | int }}
maxUnavailableNodes: {{ .Values.hooks.maxUnavailableNodes | toString | quote }}
agentHttpPort: {{ .Values.agent.httpPort }}
prewarm: {{ include "chrek.prewarm" . }}
# Directories of nodes that nobody else uses.
nodePaths: {{ include "chrek.nodePaths" . }}
{{- end -}}

{{/* Checkpoints of the values with what is left out filled in, as JSON. */}}
{{- define "chrek.prewarm" -}}
{{- $all := list -}}
{{- range (include "chrek.checkpoint" . | fromJson).prewarm -}}
{{- $namespace := .namespace | default (include "chrek.test.namespace" $) -}}
{{- $everyNode := hasKey . "everyNode" | ternary .everyNode true -}}
{{- $all = append $all (dict "name" .name "namespace" $namespace "everyNode" $everyNode "spec" .spec) -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}

{{- define "chrek.nodePaths" -}}
{{- $storage := (include "chrek.checkpoint" . | fromJson).storage -}}
{{- $paths := list (printf "%s/%s" $storage.signalHostPath (include "chrek.release" .)) -}}
{{- if ne $storage.type "pvc" -}}
{{- $paths = append $paths (include "chrek.store.cacheHostPath" .) -}}
{{- end -}}
{{- toJson $paths -}}
{{- end -}}
