{{/* What the values amount to. */}}

{{/* `dynamo-operator.checkpoint` with its short form merged over it, as JSON. */}}
{{- define "chrek.checkpoint" -}}
{{- $operator := index .Values "dynamo-operator" -}}
{{- mergeOverwrite (deepCopy $operator.checkpoint) (deepCopy (.Values.checkpoint | default dict)) | toJson -}}
{{- end -}}

{{/* Namespaces that are served, as JSON. */}}
{{- define "chrek.watchNamespaces" -}}
{{- $operator := index .Values "dynamo-operator" -}}
{{- $operator.watchNamespaces | default (list .Release.Namespace) | toJson -}}
{{- end -}}

{{- define "chrek.agentEnabled" -}}
{{- if (include "chrek.checkpoint" . | fromJson).enabled -}}true{{- end -}}
{{- end -}}

{{- define "chrek.operatorEnabled" -}}
{{- $operator := index .Values "dynamo-operator" -}}
{{- if and $operator.enabled (include "chrek.agentEnabled" .) -}}true{{- end -}}
{{- end -}}

{{/* Longest dump and a minute, unless the values say otherwise. */}}
{{- define "chrek.agent.gracePeriod" -}}
{{- .Values.agent.terminationGracePeriodSeconds | default (add .Values.agent.dumpTimeoutSeconds 60) | int -}}
{{- end -}}

{{/* An image reference. Call with (list . .Values.image). */}}
{{- define "chrek.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $tag := $image.tag -}}
{{- if and (not $tag) (not $image.digest) -}}
{{- $tag = $root.Chart.AppVersion -}}
{{- end -}}
{{- $image.repository -}}
{{- with $tag -}}:{{ . }}{{- end -}}
{{- with $image.digest -}}@{{ . }}{{- end -}}
{{- end -}}

{{/* The seconds that a time such as 30d stands for; 0 for an empty one. Call with the text. */}}
{{- define "chrek.seconds" -}}
{{- $factors := dict "" 1 "s" 1 "m" 60 "h" 3600 "d" 86400 -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get $factors (regexFind "[a-z]$" .)) -}}
{{- end -}}

{{- define "chrek.agent.config" -}}
{{- $checkpoint := include "chrek.checkpoint" . | fromJson -}}
apiVersion: chrek.nvidia.com/v1alpha1
kind: AgentConfig
release: {{ include "chrek.release" . }}
watchNamespaces: {{ include "chrek.watchNamespaces" . }}
storage:
  {{- include "chrek.store.agentConfig" . | nindent 2 }}
signalHostPath: {{ $checkpoint.storage.signalHostPath }}
kubeletRoot: {{ .Values.agent.kubeletRoot }}
stagingPath: /run/chrek
gpu:
  driverRoots: {{ .Values.agent.gpu.driverRoots | toJson }}
  lockTimeoutSeconds: {{ .Values.agent.gpu.lockTimeoutSeconds | int }}
httpPort: {{ .Values.agent.httpPort | int }}
restoreTimeoutSeconds: {{ .Values.agent.restoreTimeoutSeconds | int }}
silenceTimeoutSeconds: {{ .Values.agent.silenceTimeoutSeconds | int }}
dumpTimeoutSeconds: {{ .Values.agent.dumpTimeoutSeconds | int }}
readyTimeoutSeconds: {{ .Values.agent.readyTimeoutSeconds | int }}
maxConcurrentOperations: {{ .Values.agent.maxConcurrentOperations | int }}
maxQueuedRestores: {{ .Values.agent.maxQueuedRestores | int }}
envFromSecrets: {{ .Values.secrets.envFromSecrets }}
ignoreDifferences: {{ .Values.agent.ignoreDifferences | toJson }}
startupTaint: {{ .Values.agent.startupTaint | quote }}
logLevel: {{ .Values.agent.logLevel }}
{{- end -}}

{{- define "chrek.operator.config" -}}
{{- $operator := index .Values "dynamo-operator" -}}
{{- $storage := (include "chrek.checkpoint" . | fromJson).storage -}}
apiVersion: chrek.nvidia.com/v1alpha1
kind: OperatorConfig
release: {{ include "chrek.release" . }}
watchNamespaces: {{ include "chrek.watchNamespaces" . }}
initImage: {{ include "chrek.image" (list . .Values.initImage) }}
initImagePullPolicy: {{ .Values.initImage.pullPolicy }}
storage:
  {{- include "chrek.store.operatorConfig" . | nindent 2 }}
leaseName: {{ include "chrek.operator.name" . }}
webhookName: {{ include "chrek.webhook.configurationName" . }}
webhookServiceName: {{ include "chrek.webhook.serviceName" . }}
certificateSecretName: {{ include "chrek.webhook.secretName" . }}
agentServiceAccountName: {{ include "chrek.agent.name" . }}
deletionJobPath: /etc/chrek/deletion-job.yaml
housekeeping:
  maxBytes: {{ include "chrek.bytes" $storage.housekeeping.maxBytes }}
  unusedSeconds: {{ include "chrek.seconds" $storage.housekeeping.unusedFor }}
  nearlyFullPercent: {{ $storage.housekeeping.nearlyFullPercent | int }}
imageLookup:
  enabled: {{ $operator.imageLookup.enabled }}
  pullSecretNames: {{ $operator.imageLookup.pullSecretNames | toJson }}
  plainHttpRegistries: {{ $operator.imageLookup.plainHttpRegistries | toJson }}
envFromSecrets: {{ .Values.secrets.envFromSecrets }}
platform:
  graphs: {{ $operator.platform.graphs }}
  checkpoints: {{ $operator.platform.checkpoints }}
webhookPort: 9443
httpPort: 8089
agentWaitSeconds: {{ $operator.agentWaitSeconds | int }}
logLevel: {{ $operator.logLevel }}
{{- end -}}
