{{/* Every name of an object, once. A program that needs one gets it by its configuration file. */}}

{{- define "chrek.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 45 | trimSuffix "-" -}}
{{- end -}}

{{/* 45 characters: the longest suffix and the hashes of pods fit into the 63 of a label. */}}
{{- define "chrek.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else if contains (include "chrek.name" .) .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "chrek.name" .) | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Keys what releases could share: cluster-scoped objects and directories on nodes. */}}
{{- define "chrek.release" -}}
{{- printf "%s-%s" .Release.Namespace (include "chrek.fullname" .) -}}
{{- end -}}

{{- define "chrek.config.name" -}}
{{- include "chrek.fullname" . }}-config
{{- end -}}

{{- define "chrek.agent.name" -}}
{{- include "chrek.fullname" . }}-agent
{{- end -}}

{{- define "chrek.operator.name" -}}
{{- include "chrek.fullname" . }}-operator
{{- end -}}

{{- define "chrek.webhook.serviceName" -}}
{{- include "chrek.fullname" . }}-webhook
{{- end -}}

{{- define "chrek.webhook.secretName" -}}
{{- include "chrek.fullname" . }}-webhook-cert
{{- end -}}

{{- define "chrek.webhook.configurationName" -}}
{{- include "chrek.release" . }}
{{- end -}}

{{- define "chrek.policy.name" -}}
{{- include "chrek.release" . }}-result
{{- end -}}

{{- define "chrek.policy.stateName" -}}
{{- include "chrek.release" . }}-state
{{- end -}}

{{- define "chrek.policy.nodeName" -}}
{{- include "chrek.release" . }}-node
{{- end -}}

{{- define "chrek.hooks.name" -}}
{{- include "chrek.fullname" . }}-hooks
{{- end -}}

{{/* Account, Role and files of the hook after an uninstallation. Those of the other hooks are gone by
then. */}}
{{- define "chrek.postDelete.name" -}}
{{- include "chrek.fullname" . }}-post-delete
{{- end -}}

{{/* The DaemonSet that this hook makes and takes away again. Its pods run where agents ran. */}}
{{- define "chrek.cleanUp.name" -}}
{{- include "chrek.fullname" . }}-clean-up
{{- end -}}

{{- define "chrek.identities.name" -}}
{{- include "chrek.fullname" . }}-identities
{{- end -}}

{{- define "chrek.test.name" -}}
{{- include "chrek.fullname" . }}-test
{{- end -}}

{{- define "chrek.test.podName" -}}
{{- include "chrek.test.name" . }}-round-trip
{{- end -}}

{{/* The claim of the store. A pvcName that is not the chart's own claim is the user's. */}}
{{- define "chrek.claimName" -}}
{{- $named := (include "chrek.checkpoint" . | fromJson).storage.pvc.pvcName -}}
{{- .Values.storage.pvc.existingClaim | default $named | default .Values.storage.pvc.name -}}
{{- end -}}

{{- define "chrek.makesClaim" -}}
{{- $storage := (include "chrek.checkpoint" . | fromJson).storage -}}
{{- $own := eq (include "chrek.claimName" .) .Values.storage.pvc.name -}}
{{- if and (eq $storage.type "pvc") .Values.storage.pvc.create (not .Values.storage.pvc.existingClaim) $own -}}true{{- end -}}
{{- end -}}

{{/* Where `helm test` makes its pods: the release's namespace if it is served, else the first one. */}}
{{- define "chrek.test.namespace" -}}
{{- $namespaces := include "chrek.watchNamespaces" . | fromJsonArray -}}
{{- has .Release.Namespace $namespaces | ternary .Release.Namespace (first $namespaces) -}}
{{- end -}}
