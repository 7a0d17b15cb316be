{{/* A pod that `helm test` captures, and starts again to have it restored. Call with (list . gpu): gpu
is whether it uses one. */}}
{{- define "chrek.test.worker" -}}
{{- $gpu := index . 1 -}}
{{- with index . 0 -}}
metadata:
  labels:
    {{- include "chrek.pod.noMeshLabels" .Values.tests.podLabels | nindent 4 }}
  annotations:
    {{- include "chrek.pod.noMeshAnnotations" .Values.tests.podAnnotations | nindent 4 }}
spec:
  terminationGracePeriodSeconds: 5
  automountServiceAccountToken: false
  {{- with include "chrek.pod.pullSecrets" . }}
  {{- . | nindent 2 }}
  {{- end }}
  securityContext:
    {{- include "chrek.pod.restricted" . | nindent 4 }}
  {{- if $gpu }}
  {{- with .Values.tests.gpu.runtimeClassName | default .Values.agent.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- end }}
  {{- with .Values.tests.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tests.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: main
      image: {{ include "chrek.image" (list . .Values.image) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [python3, -m, chrek.hooks.{{ $gpu | ternary "counter_gpu" "counter" }}]
      securityContext:
        allowPrivilegeEscalation: false
        capabilities:
          drop: [ALL]
      {{- if $gpu }}
      env:
        # NVIDIA's runtime gives CUDA's library only to containers that say so.
        - name: NVIDIA_DRIVER_CAPABILITIES
          value: compute,utility
        # Where the device plugin of Google's clusters mounts it.
        - name: LD_LIBRARY_PATH
          value: /usr/local/nvidia/lib64
      {{- end }}
      ports:
        - name: http
          containerPort: 8080
      readinessProbe:
        httpGet: {path: /ready, port: http}
        periodSeconds: 1
      resources:
        {{- if $gpu }}
        {{- toYaml (merge (dict "limits" (dict .Values.tests.gpu.resourceName "1")) .Values.tests.gpu.resources) | nindent 8 }}
        {{- else }}
        {{- toYaml .Values.tests.resources | nindent 8 }}
        {{- end }}
      # It writes here, into /tmp and into /dev/shm, and its restored self must read it.
      volumeMounts:
        - name: files
          mountPath: /files
  volumes:
    - name: files
      emptyDir: {}
{{- end -}}
{{- end -}}
