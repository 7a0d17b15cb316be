{{/* The store: a volume, or a server that agents and deletion Jobs reach over the network. */}}

{{/* Mounts of whoever reads and writes the store. */}}
{{- define "chrek.store.mounts" -}}
{{- $storage := (include "chrek.checkpoint" . | fromJson).storage -}}
{{- if eq $storage.type "pvc" -}}
# The store. Only agents and the Jobs that delete artifacts mount it.
- name: store
  mountPath: {{ $storage.pvc.basePath }}
{{- else }}
{{- $server := get $storage $storage.type }}
{{- if $server.credentialsSecretRef }}
# Who asks the store's server.
- name: store-credentials
  mountPath: /etc/chrek/store-credentials
  readOnly: true
{{- end }}
{{- if $server.caBundle }}
# By which authorities that server may prove who it is.
- name: store-ca
  mountPath: /etc/chrek/store-ca
  readOnly: true
{{- end }}
{{- if $storage.encryption.keySecretRef }}
# What is stored there is encrypted with it.
- name: encryption
  mountPath: /etc/chrek/encryption
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{/* The volumes of these mounts. Root alone reads them, in these containers and on the node. */}}
{{- define "chrek.store.volumes" -}}
{{- $storage := (include "chrek.checkpoint" . | fromJson).storage -}}
{{- if eq $storage.type "pvc" -}}
- name: store
  persistentVolumeClaim:
    claimName: {{ include "chrek.claimName" . }}
{{- else }}
{{- $server := get $storage $storage.type }}
{{- with $server.credentialsSecretRef }}
- name: store-credentials
  secret:
    secretName: {{ . }}
    defaultMode: 0400
{{- end }}
{{- with $server.caBundle }}
- name: store-ca
  configMap:
    name: {{ . }}
    defaultMode: 0400
{{- end }}
{{- with $storage.encryption.keySecretRef }}
- name: encryption
  secret:
    secretName: {{ . }}
    defaultMode: 0400
{{- end }}
{{- end }}
{{- end -}}

{{/* The directory of a node that the cache is in: releases share a node without meeting. */}}
{{- define "chrek.store.cacheHostPath" -}}
{{- $storage := (include "chrek.checkpoint" . | fromJson).storage -}}
{{ $storage.cache.hostPath }}/{{ include "chrek.release" . }}
{{- end -}}

{{/* Secrets that whoever reaches the store needs, as JSON. */}}
{{- define "chrek.store.secretNames" -}}
{{- $storage := (include "chrek.checkpoint" . | fromJson).storage -}}
{{- $names := list -}}
{{- if ne $storage.type "pvc" -}}
{{- $server := get $storage $storage.type -}}
{{- $names = list $server.credentialsSecretRef $storage.encryption.keySecretRef | compact | uniq -}}
{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{/* The `storage` section of the operator's configuration: it names places and reaches none. */}}
{{- define "chrek.store.operatorConfig" -}}
{{- $storage := (include "chrek.checkpoint" . | fromJson).storage -}}
type: {{ $storage.type }}
{{- if eq $storage.type "pvc" }}
pvc:
  pvcName: {{ include "chrek.claimName" . }}
  basePath: {{ $storage.pvc.basePath }}
{{- else }}
{{ $storage.type }}:
  uri: {{ (get $storage $storage.type).uri | quote }}
{{- end }}
{{- end -}}

{{/* The `storage` section of the agent's, which the deletion Jobs read too. */}}
{{- define "chrek.store.agentConfig" -}}
{{- $storage := (include "chrek.checkpoint" . | fromJson).storage -}}
{{- include "chrek.store.operatorConfig" . }}
{{- if ne $storage.type "pvc" }}
{{- $server := get $storage $storage.type }}
{{- if eq $storage.type "s3" }}
  endpoint: {{ $storage.s3.endpoint | quote }}
  region: {{ $storage.s3.region | quote }}
{{- end }}
  plainHttp: {{ $server.plainHttp }}
  caBundlePath: {{ ternary "/etc/chrek/store-ca/ca.crt" "" (ne $server.caBundle "") | quote }}
  credentialsPath: {{ ternary "/etc/chrek/store-credentials" "" (ne $server.credentialsSecretRef "") | quote }}
cache:
  path: {{ $storage.cache.hostPath }}
  sizeBytes: {{ include "chrek.bytes" $storage.cache.size }}
encryption:
  keyPath: {{ ternary "/etc/chrek/encryption" "" (ne $storage.encryption.keySecretRef "") | quote }}
{{- end }}
{{- end -}}

{{/* The number that a quantity such as 100Gi stands for. Call with the text. */}}
{{- define "chrek.bytes" -}}
{{- $factors := dict "" 1 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get $factors (regexFind "[A-Za-z]*$" .)) -}}
{{- end -}}
