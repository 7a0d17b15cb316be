{{/* The agent's pod template. The pre-install hook asks the API server whether the namespace admits
it, so this is its only definition. Call with (list . serviceAccountName). */}}
{{- define "chrek.agent.podTemplate" -}}
{{- $account := index . 1 -}}
{{- with index . 0 -}}
{{- $storage := (include "chrek.checkpoint" . | fromJson).storage -}}
metadata:
  annotations:
    # The agent reads its configuration once, at its start.
    checksum/config: {{ include "chrek.agent.config" . | sha256sum }}
    {{- with .Values.agent.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    # Not the chart's version: an upgrade that changes nothing here restarts nothing.
    {{- include "chrek.selectorLabels" (list . "agent") | nindent 4 }}
    {{- with .Values.agent.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ $account }}
  {{- with include "chrek.pod.pullSecrets" . }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .Values.agent.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.agent.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  # The agent finds workers by their host PIDs, enters their namespaces and proves who calls it by
  # /proc. It needs neither the host's network nor its IPC.
  hostPID: true
  terminationGracePeriodSeconds: {{ include "chrek.agent.gracePeriod" . }}
  {{- with include "chrek.agent.scheduling" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: agent
      image: {{ include "chrek.image" (list . .Values.image) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [chrek, agent, --config, /etc/chrek/agent.yaml]
      {{- with .Values.agent.extraArgs }}
      args:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        # CRIU ptraces workers, writes ns_last_pid, restores credentials and enters mount
        # namespaces: together that is all a privileged container may do. It implies that AppArmor
        # does not confine it.
        privileged: true
        runAsUser: 0
        seccompProfile:
          type: Unconfined
      env:
        {{- include "chrek.container.downward" (list "NODE_NAME" "POD_NAME" "POD_NAMESPACE") | trim | nindent 8 }}
        # For NVIDIA's container runtime, if it is the one that starts this container; nobody else
        # reads them. The agent asks for no GPU, so that it takes none away, and must see every one of
        # its node: the driver restores by a map of all of them.
        {{- range $name, $value := include "chrek.agent.nvidiaEnv" . | fromYaml }}
        - name: {{ $name }}
          value: {{ $value }}
        {{- end }}
        {{- with .Values.agent.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: http
          containerPort: {{ .Values.agent.httpPort }}
      # What a crash said last; `kubectl describe` and the post-install hook show it.
      terminationMessagePolicy: FallbackToLogsOnError
      startupProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 1
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 20
        timeoutSeconds: 10
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        timeoutSeconds: 3
      resources:
        {{- toYaml .Values.agent.resources | nindent 8 }}
      volumeMounts:
        # Its own configuration.
        - name: config
          mountPath: /etc/chrek
          readOnly: true
        # The sockets that pods call lie in their emptyDirs. The same path as on the node, because
        # mount tables of containers name it; mounts made later must be seen.
        - name: kubelet
          mountPath: {{ .Values.agent.kubeletRoot }}
          mountPropagation: HostToContainer
        # The journal of what is in flight, which a new agent continues. Nothing else mounts it.
        - name: signals
          mountPath: {{ $storage.signalHostPath }}
        {{- with include "chrek.store.mounts" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- if ne $storage.type "pvc" }}
        # What this node keeps of artifacts that lie on a server, and where it makes new ones.
        - name: cache
          mountPath: {{ $storage.cache.hostPath }}
        {{- end }}
        # Verified copies of CRIU images: they hold secrets, so memory and never a disk.
        - name: staging
          mountPath: /run/chrek
        # CRIU is put into the worker's cgroups, so that memory is charged to the pod. The agent's
        # own cgroup namespace would hide them.
        - name: cgroup
          mountPath: /sys/fs/cgroup
  volumes:
    - name: config
      configMap:
        name: {{ include "chrek.config.name" . }}
        items:
          - {key: agent.yaml, path: agent.yaml}
    - name: kubelet
      hostPath:
        path: {{ .Values.agent.kubeletRoot }}
        type: Directory
    - name: signals
      hostPath:
        # A directory of this release: several releases share a node without meeting.
        path: {{ $storage.signalHostPath }}/{{ include "chrek.release" . }}
        type: DirectoryOrCreate
    {{- with include "chrek.store.volumes" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- if ne $storage.type "pvc" }}
    - name: cache
      hostPath:
        path: {{ include "chrek.store.cacheHostPath" . }}
        type: DirectoryOrCreate
    {{- end }}
    - name: staging
      emptyDir:
        medium: Memory
    - name: cgroup
      hostPath:
        path: /sys/fs/cgroup
        type: Directory
{{- end -}}
{{- end -}}

{{/* The same as a pod of its own, which the API server is asked about. Called as the template is. */}}
{{- define "chrek.agent.pod" -}}
apiVersion: v1
kind: Pod
{{ include "chrek.agent.podTemplate" . }}
{{- end -}}

{{/* Variables of NVIDIA's container runtime, but those that the values set themselves. */}}
{{- define "chrek.agent.nvidiaEnv" -}}
{{- $found := dict "NVIDIA_DRIVER_CAPABILITIES" "compute,utility" "NVIDIA_VISIBLE_DEVICES" "all" -}}
{{- range .Values.agent.extraEnv -}}
{{- $found = omit $found .name -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}

{{/* On which nodes agents run, and what cleans up after them. */}}
{{- define "chrek.agent.scheduling" -}}
{{- $gpu := eq .Values.agent.nodes "gpu" -}}
{{- with .Values.agent.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $gpu }}
affinity:
  {{- with .Values.agent.affinity }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      # Any of these: the labels of NVIDIA's GPU operator and device plugin, of node feature
      # discovery (by vendor, or by class and vendor), of GKE, EKS, Karpenter and AKS.
      nodeSelectorTerms:
        {{- range $key, $values := include "chrek.agent.gpuLabels" $ | fromYaml }}
        - matchExpressions:
            - key: {{ $key }}
              {{- if $values }}
              operator: In
              values: {{ toJson $values }}
              {{- else }}
              operator: Exists
              {{- end }}
        {{- end }}
{{- else }}
{{- with .Values.agent.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- $tolerations := .Values.agent.tolerations }}
{{- $wanted := list }}
{{- if $gpu }}
{{- $wanted = append $wanted (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") }}
{{- end }}
{{- with .Values.agent.startupTaint }}
{{- $wanted = append $wanted (dict "key" . "operator" "Exists") }}
{{- end }}
{{- range $wanted }}
{{- if not (has . $tolerations) }}
{{- $tolerations = append $tolerations . }}
{{- end }}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Label -> its values on nodes with NVIDIA GPUs; none means any. */}}
{{- define "chrek.agent.gpuLabels" -}}
cloud.google.com/gke-accelerator: []
feature.node.kubernetes.io/pci-0300_10de.present: ["true"]
feature.node.kubernetes.io/pci-0302_10de.present: ["true"]
feature.node.kubernetes.io/pci-10de.present: ["true"]
k8s.amazonaws.com/accelerator: []
karpenter.k8s.aws/instance-gpu-manufacturer: [nvidia]
kubernetes.azure.com/accelerator: [nvidia]
nvidia.com/gpu.present: ["true"]
{{- end -}}
